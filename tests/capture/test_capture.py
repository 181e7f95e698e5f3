"""Attaching capture to ordinary nets: what must not change, and what is covered."""

from __future__ import annotations

import re

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from oracle import curvature as c
from oracle.bridge import oracle_net
from oracle.nets import batches, conv_net, mlp, small_conv_net, token_net
from oracle.optimizers import Thor
from oracle.training import compare, cross_entropy
from steps import Float32Loss

from mindspore_thor import KFAC, THOR, TrainStep


def gradients(net: nn.Cell, x: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    whole = nn.WithLossCell(net, cross_entropy())
    value, found = ms.value_and_grad(whole, None, net.trainable_params())(Tensor(x), Tensor(labels))
    return [value.asnumpy()] + [g.asnumpy() for g in found]


@pytest.mark.parametrize("make", [conv_net, token_net])
def test_a_plain_step_computes_what_the_unconverted_net_computes(make) -> None:
    net, x, labels = make()
    names = [p.name for p in net.get_parameters()]
    types = [type(cell).__mro__[0].__name__ for _, cell in net.cells_and_names()]
    classes = [nn.Dense, nn.Conv2d, nn.Embedding]
    kinds = [[isinstance(cell, k) for k in classes] for _, cell in net.cells_and_names()]
    before = gradients(net, x, labels)
    THOR(net, 0.1)
    after = gradients(net, x, labels)
    for a, b in zip(before, after):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    assert [p.name for p in net.get_parameters()] == names
    assert list(net.parameters_dict()) == names
    assert [p.name for p in net.trainable_params()] == [n for n in names if "moving" not in n]
    assert [type(cell).__name__ for _, cell in net.cells_and_names()] == types
    assert [[isinstance(cell, k) for k in classes] for _, cell in net.cells_and_names()] == kinds


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Cell, THOR, np.ndarray]:
    """A convolutional net after two steps of THOR."""
    ms.set_context(mode=ms.GRAPH_MODE)
    net, x, labels = conv_net()
    optimizer = THOR(net, 0.05, split_dim=16)
    step = TrainStep(net, cross_entropy(), optimizer)
    for a, b in batches(x, labels, 2):
        step(Tensor(a), Tensor(b))
    return net, optimizer, x


def test_checkpoint_of_the_trained_net_loads_into_a_plain_one(trained, tmp_path) -> None:
    net, _, x = trained
    path = str(tmp_path / "net.ckpt")
    ms.save_checkpoint(net, path)
    fresh, _, _ = conv_net(seed=77)
    saved = ms.load_checkpoint(path)
    assert set(saved) == {p.name for p in fresh.get_parameters()}
    missing, _ = ms.load_param_into_net(fresh, saved, strict_load=True)
    assert not missing
    net.set_train(False)
    fresh.set_train(False)
    np.testing.assert_array_equal(net(Tensor(x)).asnumpy(), fresh(Tensor(x)).asnumpy())


def test_report_rows_and_table(trained) -> None:
    report = trained[1].layer_report()
    kinds = ["Conv2d", "Conv2d", "BatchNorm2d", *["Conv2d"] * 3, "Dense"]
    assert [row.type for row in report] == kinds
    assert [row.layer for row in report] == ["0", "2", "3", "4", "6", "7", "9"]
    assert [row.covered for row in report] == [k != "BatchNorm2d" for k in kinds]
    assert "plain gradient" in report[2].reason
    assert [row.accepted + row.kept for row in report] == [2 * (k != "BatchNorm2d") for k in kinds]
    assert not any(row.stopped for row in report)
    lines = report.table().splitlines()
    assert len(lines) == len(report) + 2  # head, rule
    head = ["layer", "type", "moved", "by", "accepted", "kept", "stopped", "reason"]
    assert lines[0].split() == head
    assert lines[4].split()[:3] == ["3", "BatchNorm2d", "plain"]
    # Layers that fare alike are one line; one by itself is named.
    title, *lines, _ = str(report).splitlines()
    assert title == "THOR preconditions 6 of 7 layers with weights"
    found = {tuple(re.split("  +", line.strip())[:3]) for line in lines}
    assert found == {
        ("2", "Conv2d", "weight THOR, bias plain"),
        ("3", "Conv2d", "THOR"),
        ("1", "BatchNorm2d", "plain"),
        ("1", "Dense", "weight THOR, bias plain"),
    }
    assert any(line.endswith("(3)") for line in lines)
    names = [p.name for p in trained[1].weights]
    bias = {name: "plain" for name in names if name.endswith(("bias", "gamma", "beta"))}
    assert report.rules == {name: bias.get(name, "THOR") for name in names}


def test_optimizer_state_has_unique_names_apart_from_the_nets() -> None:
    net, _, _ = token_net()
    optimizer = THOR(net, 0.1, weight_decay=0.1)
    step = TrainStep(net, cross_entropy(), optimizer)
    own = {p.name for p in net.get_parameters()}
    every = [p.name for _, p in step.parameters_and_names()]
    assert len(set(every)) == len(every)
    assert own < set(every)
    assert set(step.parameters_dict()) == set(every)
    kinds = {row.type: (row.covered, row.accepted + row.kept) for row in optimizer.layer_report()}
    assert kinds == {"Embedding": (True, 0), "LayerNorm": (True, 0), "Dense": (True, 0)}


def test_a_second_optimizer_attaches_anew() -> None:
    """The first one's probes are gone: the second trains like one on a fresh net."""
    net, x, labels = mlp()
    TrainStep(net, cross_entropy(), KFAC(net, 0.0, method="inverse"))(Tensor(x), Tensor(labels))
    errors, _, _ = compare(
        net,
        batches(x, labels, 2),
        lambda n: TrainStep(n, cross_entropy(), THOR(n, 0.1, split_dim=3)),
        lambda o: Thor(o, lr=0.1, momentum=0.9, split_dim=3),
    )
    assert max(errors.values()) < 2e-5, errors


class Activated(nn.Cell):
    """A Dense layer on tokens whose activation treats axis 1 specially."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Dense(4, 3, activation=nn.PReLU(3, 0.3))

    def construct(self, x):
        return self.fc(x).sum()


def test_an_activation_that_knows_axes_sees_what_it_always_saw() -> None:
    """nn.Dense flattens tokens before the activation: PReLU's axis 1 are the features."""
    net = Activated()
    slope = np.array([0.1, 0.5, 0.9], np.float32)
    net.fc.activation.w.set_data(Tensor(slope))
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    plain = net(Tensor(x)).asnumpy()
    THOR(net, 0.1)
    np.testing.assert_allclose(net(Tensor(x)).asnumpy(), plain, rtol=1e-6)


@pytest.mark.parametrize("make", [small_conv_net, token_net])
def test_half_precision_net_trains_with_finite_statistics(make) -> None:
    """to_float(float16): g is multiplied by N in float32, so nothing under- or overflows."""
    net, x, labels = make()
    net.to_float(ms.float16)
    optimizer = THOR(net, 0.02, loss_scale=128.0)
    step = TrainStep(net, Float32Loss(), optimizer)
    losses = [float(step(Tensor(x), Tensor(labels)).asnumpy()) for _ in range(6)]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    assert int(step.skipped.asnumpy()) == 0
    oracle = oracle_net(make()[0])
    oracle.loss(x, labels)
    layers = [layer for layer in oracle.layers if hasattr(layer, "ds") and "weight" in layer.p]
    matrices = [k for k in optimizer.curvatures if hasattr(k, "factor_a")]
    a, _, _ = c.factors(layers[0])
    if make is small_conv_net:  # its first input is the image, which no weight has touched
        got = matrices[0].factor_a().asnumpy()[:, 0]
        np.testing.assert_allclose(got, a, atol=2e-3 * np.abs(a).max())  # float16 keeps 11 bits
    for curvature in matrices:
        assert np.isfinite(curvature.statistics.asnumpy()).all()
