"""Nets as people write them: constants inside, copied, exported, cast or differentiated twice."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, amp, nn, ops
from oracle.training import cross_entropy
from steps import same, weights

from mindspore_thor import FNGD, KFAC, THOR, TrainStep
from mindspore_thor.errors import UserError

IDS = np.random.default_rng(1).integers(0, 6, (4, 5)).astype(np.int32)
FEATURES = np.random.default_rng(2).standard_normal((4, 3, 6, 6)).astype(np.float32)
LABELS = Tensor(np.array([0, 2, 1, 1], np.int32))


class Constants(nn.Cell):
    """Every kind of layer on an input that is no input of the net."""

    def __init__(self, hold: Any) -> None:
        super().__init__()
        self.ids, self.image = hold(IDS), hold(FEATURES)
        self.rows = hold(FEATURES[:, 0, :, 0])
        self.embedding = nn.Embedding(6, 3, embedding_table="normal")
        self.conv = nn.Conv2d(3, 3, 3, has_bias=True)
        self.dense = nn.Dense(6, 3)
        self.head = nn.Dense(3, 3)

    def construct(self, x):
        a = self.embedding(self.ids).mean(1) + self.conv(self.image).mean((2, 3))
        return self.head(ops.tanh(x + a * 5 + self.dense(self.rows)))


def gradients(net: nn.Cell, parameters: Any, *inputs: Tensor) -> list[np.ndarray]:
    """Gradients of a loss and, behind them, whatever statistics the parameters stand for."""
    loss = nn.WithLossCell(net, cross_entropy())
    found = ms.value_and_grad(loss, None, parameters)(*inputs, LABELS)[1]
    found = [g.asnumpy() for g in found]
    assert all(np.abs(g).max() > 0 for g in found)
    return found


@pytest.mark.parametrize(
    "make",
    [lambda net: THOR(net, 0.1), lambda net: FNGD(net, 0.1, share="none")],
    ids=["THOR", "FNGD"],
)
def test_a_constant_as_input_counts_like_any_other_input(make: Any) -> None:
    """A parameter that is not trained holds the same, and is no constant to the compiler."""
    x = Tensor(np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32))
    found = []
    for hold in (Tensor, lambda value: Parameter(Tensor(value), requires_grad=False)):
        ms.set_seed(3)
        net = Constants(hold)
        found.append(gradients(net, make(net).parameters, x))
    same(*found, 1e-6)


class Mixed(nn.Cell):
    """A convolution, whose operator is replaced, and a Dense layer, whose class is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, has_bias=True)
        self.flatten = nn.Flatten()
        self.fc = nn.Dense(144, 3, activation="tanh")

    def construct(self, x):
        return self.fc(self.flatten(self.conv(x)))


class Convolution(nn.Cell):
    """A net whose only covered layer keeps its class."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def construct(self, x):
        return self.conv(x)


METHODS = {"KFAC": lambda net: KFAC(net, 0.1), "FNGD": lambda net: FNGD(net, 0.1, share="none")}


@pytest.mark.parametrize("method", METHODS)
def test_copies_and_exported_models_are_plain_nets(tmp_path: Path, method: str) -> None:
    net, x = Mixed().set_train(False), Tensor(FEATURES)
    plain = net(x).asnumpy()
    optimizer = METHODS[method](net)
    for twin in (copy.deepcopy(net), copy.deepcopy([net])[0]):
        assert [type(c) for c in twin.cells()] == [nn.Conv2d, nn.Flatten, nn.Dense]
        assert isinstance(twin.conv.conv2d, ops.Conv2D) and isinstance(
            twin.conv.bias_add, ops.BiasAdd
        )
        assert [p.name for p in twin.get_parameters()] == [p.name for p in net.get_parameters()]
        np.testing.assert_array_equal(twin(x).asnumpy(), plain)
        twin.fc.weight.set_data(ops.zeros_like(twin.fc.weight))
    np.testing.assert_allclose(net(x).asnumpy(), plain, rtol=1e-6)
    ms.export(net, x, file_name=str(tmp_path / "net"), file_format="MINDIR")
    loaded = nn.GraphCell(ms.load(str(tmp_path / "net.mindir")))
    assert {p.name for p in loaded.get_parameters()} == {p.name for p in net.get_parameters()}
    np.testing.assert_allclose(loaded(x).asnumpy(), plain, rtol=1e-6)
    # Neither has taken the statistics from the net itself, in a function's graph either.
    gradients(net, optimizer.parameters, x)


@pytest.mark.parametrize("method", METHODS)
def test_rewriting_for_mixed_precision_must_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.chdir(tmp_path)  # MindSpore writes the rewritten source there
    flags = (
        (ms.rewrite.common.namespace, "_ms_cells_to_subtree"),
        (ms.rewrite.parsers.assign_parser.AssignParser, "_share_one_implementation"),
    )
    for net in (Mixed(), Convolution(), nn.Dense(2, 2)):
        optimizer = METHODS[method](net)
        for rewrite in (
            lambda net, _: amp.auto_mixed_precision(net, "O1"),
            lambda net, own: ms.Model(net, nn.MSELoss(), own, amp_level="O1"),
        ):
            with pytest.raises(UserError, match="make the optimizer of that net") as caught:
                rewrite(net, optimizer)
            assert len(str(caught.value)) <= 300
            # What MindSpore sets while it rewrites, and leaves so after an error.
            for holder, name in flags:
                setattr(holder, name, False)
            ms.rewrite.common.config.clear_caches()


class Penalty(nn.Cell):
    """The loss of a net whose derivative is part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.SequentialCell(nn.Dense(2, 3), nn.Tanh(), nn.Dense(3, 1))
        self.gradient = ops.GradOperation()

    def total(self, x):
        return self.net(x).sum()

    def construct(self, x):
        return ((self.gradient(self.total)(x) - 1.0) ** 2).mean()


@pytest.mark.parametrize("method", METHODS)
def test_second_derivatives_are_refused_in_one_line(method: str) -> None:
    net = Penalty()
    before = weights(net)
    step = TrainStep(net, None, METHODS[method](net))
    with pytest.raises(UserError, match=r"differentiate layers .* twice") as caught:
        step(Tensor(np.ones((4, 2), np.float32)))
    assert len(str(caught.value)) <= 300
    same(weights(net), before)


@pytest.mark.parametrize("method", METHODS)
def test_mindspores_own_cell_says_the_same_of_second_derivatives(method: str) -> None:
    net = Penalty()
    optimizer = METHODS[method](net)
    cell = nn.TrainOneStepCell(net, optimizer).set_train()
    with pytest.raises(UserError, match=r"differentiate layers .* twice"):
        cell(Tensor(np.ones((4, 2), np.float32)))
