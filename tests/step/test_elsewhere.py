"""Weights that are also used outside of their layers have the plain gradient, and no others."""

from __future__ import annotations

import functools
from typing import Callable

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from oracle.bridge import randomise
from oracle.training import cross_entropy
from steps import same, weights

from mindspore_thor import FNGD, KFAC, LNGD, THOR, TrainStep
from mindspore_thor.layers.suspicion import suspicious
from mindspore_thor.layers.uses import used_outside
from mindspore_thor.step import elsewhere

RNG = np.random.default_rng(7)
IDS = Tensor(RNG.integers(0, 5, (6,)).astype(np.int32))
LABELS = Tensor((np.arange(6) % 3).astype(np.int32))


class Table(nn.Embedding):
    """Its table is also read by a method that is not ``construct``."""

    def decode(self, h):
        return ops.matmul(h, self.embedding_table.T)


class Head(nn.Cell):
    """Holds the weight of somebody else's layer."""

    def __init__(self, weight: Parameter) -> None:
        super().__init__()
        self.own = weight

    def construct(self, h):
        return ops.matmul(h, self.own)


class Many(nn.Cell):
    """Every layer's weight is read in another way; three are not used by that."""

    USED = frozenset({"table", "by_name", "held", "squared", "norm"})

    def __init__(self) -> None:
        super().__init__()
        self.table = Table(5, 4, embedding_table="normal")
        self.by_name, self.asked, self.off = nn.Dense(4, 4), nn.Dense(4, 4), nn.Dense(4, 4)
        self.held, self.squared, self.clean = nn.Dense(4, 4), nn.Dense(4, 4), nn.Dense(4, 4)
        self.norm = nn.LayerNorm((4,))
        self.head = Head(self.held.weight)
        self.key = "weight"
        self.use = False

    def construct(self, ids):
        h = self.off(self.asked(self.by_name(self.norm(self.table(ids)))))
        h = h.astype(self.asked.weight.dtype).reshape((-1, self.asked.weight.shape[0]))
        h = ops.tanh(h)
        h = h + self.squared(self.held(h))
        h = h + self.head(h) + ops.matmul(h, getattr(self.by_name, self.key)) * self.norm.gamma
        if self.use:
            h = ops.matmul(h, self.off.weight)
        return self.clean(h) + self.table.decode(h).sum(1, keepdims=True)


def many() -> nn.Cell:
    net = randomise(Many(), 3)
    # The gradient of its square is zero in the first step, and only there.
    net.squared.weight.set_data(ops.zeros_like(net.squared.weight))
    return net


def penalty_of(net: nn.Cell) -> Callable[..., Tensor]:
    loss_fn = cross_entropy()

    def penalised(output, label):
        return loss_fn(output, label) + 0.3 * (net.squared.weight**2).sum()

    return penalised


PLAIN = {"momentum": 0.0}
METHODS = {
    "thor": lambda net: THOR(net, 1.0, split_dim=3, **PLAIN),
    # Its clip is the whole step's, but not that of a plain gradient.
    "kfac": lambda net: KFAC(net, 1.0, kl_clip=1e-3, method="inverse", **PLAIN),
    "fngd": lambda net: FNGD(net, 1.0, steps_per_epoch=1, batch_size=6, **PLAIN),
    "lngd": lambda net: LNGD(net, 1.0, **PLAIN),
}


@functools.cache
def gradients() -> dict[str, np.ndarray]:
    """MindSpore's own, at the weights that every method begins with."""
    net = many()
    parameters, loss_fn = net.trainable_params(), penalty_of(net)

    def loss(ids, labels):
        return loss_fn(net(ids), labels)

    found = ms.value_and_grad(loss, None, ParameterTuple(parameters))(IDS, LABELS)[1]
    return {p.name: g.asnumpy() for p, g in zip(parameters, found)}


@pytest.mark.parametrize("method", METHODS)
def test_what_is_used_elsewhere_is_plain_from_the_first_step_on(method: str) -> None:
    net, expected = many(), gradients()
    before = {p.name: p.asnumpy().copy() for p in net.get_parameters()}
    optimizer = METHODS[method](net)
    step = TrainStep(net, penalty_of(net), optimizer)
    step(IDS, LABELS)
    report = {row.layer: row for row in optimizer.layer_report()}
    covered = {"asked", "off", "clean"}
    assert {name for name, row in report.items() if row.covered} == covered
    for name, p in net.parameters_and_names():
        layer = name.partition(".")[0]
        moved, gradient = before[p.name] - p.asnumpy(), expected[p.name]
        if layer in covered and name.endswith("weight"):
            assert np.abs(moved - gradient).max() > 0.01 * np.abs(gradient).max(), name
        elif layer not in covered:
            size = 1e-5 * np.abs(gradient).max() + 1e-7
            np.testing.assert_allclose(moved, gradient, atol=size, err_msg=name)
            if report[layer].reason.startswith("weight"):
                assert layer in Many.USED
    if method != "thor":
        return
    assert all("used outside" in report[layer].reason for layer in Many.USED)
    # A run that is resumed decides anew, and goes on to the bit.
    again = many()
    other = METHODS[method](again)
    assert [p.name for p in other.get_parameters()] == [p.name for p in optimizer.get_parameters()]
    for source, target in ((net, again), (optimizer, other)):
        for p, q in zip(source.get_parameters(), target.get_parameters()):
            q.set_data(Tensor(p.asnumpy()))
    step(IDS, LABELS)
    TrainStep(again, penalty_of(again), other)(IDS, LABELS)
    same(weights(again), weights(net))


class Noisy(nn.Cell):
    """Running statistics, random numbers and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4, embedding_table="normal")
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(p=0.5)
        self.fc = nn.Dense(4, 3)
        self.count = Parameter(Tensor(0, ms.int32), name="count", requires_grad=False)

    def construct(self, ids):
        ops.assign_add(self.count, Tensor(1, ms.int32))
        return self.fc(self.dropout(self.norm(self.table(ids))))


def test_looking_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps are those of a run in which nobody looked."""
    results = []
    for looks in (False, True):
        monkeypatch.setattr(elsewhere, "suspicious", lambda *_, looks=looks: looks)
        ms.set_seed(3)
        net = randomise(Noisy(), 2)
        optimizer = THOR(net, 0.1)
        step = TrainStep(net, cross_entropy(), optimizer)
        for _ in range(2):
            step(IDS, LABELS)
        assert int(net.count.asnumpy()) == 2
        assert optimizer.elsewhere == {}
        results.append(weights(net))
    same(*results)


class Penalty(nn.Cell):
    """A loss that holds weights of the net."""

    def __init__(self, net: nn.Cell) -> None:
        super().__init__()
        self.loss = cross_entropy()
        self.held = ParameterTuple([net.clean.weight])

    def construct(self, output, label):
        return self.loss(output, label) + (self.held[0] ** 2).sum()


class Plain(nn.Cell):
    """Nothing but a layer, read in harmless ways."""

    def __init__(self) -> None:
        super().__init__()
        self.clean = nn.Dense(4, 3)
        self.weight = Parameter(Tensor(np.ones(3, np.float32)), name="scale")

    def begin(self):
        self.clean.weight.set_data(self.clean.weight)

    def construct(self, x):
        return self.clean(x.astype(self.clean.weight.dtype)) * self.weight


def test_what_raises_suspicion() -> None:
    """Whether a graph more is compiled; where there is no TrainStep, who is named."""
    net = Plain()
    clean = net.clean

    def by_function(output, label):
        return output.mean() + clean.weight.sum()

    def by_list(output, label):
        return output.mean() + sum([p.sum() for p in net.trainable_params()])

    class ByName(Plain):
        def construct(self, x):
            return getattr(self, "cle" + "an")(x)

    weight = [clean.weight]
    for loss_fn, expected in (
        (None, False),
        (cross_entropy(), False),
        (nn.CrossEntropyLoss(weight=Tensor(np.ones(3, np.float32))), False),
        (lambda output, label: output.mean(), False),
        (lambda output, label: output.mean() + net.clean.weight.sum(), True),
        (lambda output, label, held=weight: output.mean() + held[0].sum(), True),
        (by_function, True),
        (by_list, True),
        (Penalty(net), True),
    ):
        assert suspicious(net, loss_fn, [clean.weight], [clean]) is expected
    other = ByName()
    assert suspicious(other, None, [other.clean.weight], [other.clean])
    assert used_outside(net, by_function) == {id(clean): by_function}
    assert used_outside(net) == used_outside(net, cross_entropy()) == {}
    optimizer = THOR(net, 0.1)
    assert optimizer.layer_report()[1].covered
    TrainStep(net, Penalty(net), optimizer)
    assert "the loss" in optimizer.layer_report()[1].reason


def test_weights_left_out_of_params_and_layers_that_are_not_used() -> None:
    class Attention(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2)
            self.first, self.last = nn.Dense(4, 4), nn.Dense(4, 3)
            self.first.weight.requires_grad = False

    net = Attention()
    own = [*net.attention.trainable_params(), net.first.bias]
    report = {row.layer: row.reason for row in THOR(net, 0.1, params=own).layer_report()}
    # As long as no batch has told whether it is called.
    assert "weight also used by MultiheadAttention" in report["attention.out_proj"]
    assert "not among this optimizer's params" in report["last"]
    assert report["first"] == "weight is not trained"
