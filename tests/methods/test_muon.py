"""Muon against the float64 oracle, and what follows from its formula."""

from __future__ import annotations

from functools import partial

import mindspore as ms
import numpy as np
import pytest
import steps
from mindspore import Tensor, nn
from oracle.bridge import oracle_net
from oracle.nets import ODD, batches, conv_net, mlp, token_net
from oracle.rivals import Muon as Oracle
from oracle.rivals import newton_schulz
from oracle.training import cross_entropy
from steps import Outer, assert_close

from mindspore_thor import TrainStep
from mindspore_thor.errors import UserError
from mindspore_thor.linalg.orthogonal import orthogonalized
from mindspore_thor.methods.muon import Muon

run = partial(steps.run, Muon, Oracle)
REST = {"rest_learning_rate": 0.01, "rest_epsilon": 1e-3}


class Orthogonalized(nn.Cell):
    def __init__(self, steps: int = 5) -> None:
        super().__init__()
        self.steps = steps

    def construct(self, x):
        return orthogonalized(x, self.steps)


def test_several_steps_on_convolutions() -> None:
    """Wide, tall, grouped, depthwise and pointwise kernels, with and without bias; a schedule."""
    errors, _, step = run(
        conv_net(),
        4,
        lr=[0.05, 0.03, 0.04, 0.02],
        momentum=0.8,
        weight_decay=0.3,
        loss_scale=64.0,
        **REST,
    )
    assert_close(errors, 2e-4)
    rows = {row.layer: row for row in step.optimizer.layer_report()}
    assert [name for name, row in rows.items() if row.covered] == ["0", "2", "4", "6", "7"]
    assert rows["9"].reason == "last layer: AdamW" and rows["9"].rule == "AdamW"
    assert rows["0"].rule == "weight Muon, bias AdamW"


def test_several_steps_on_tokens_without_nesterov_or_rest() -> None:
    """Three iterations; tables, norms, biases and the last layer have the plain gradient."""
    options = {"momentum": 0.9, "nesterov": False, "ns_steps": 3, "rest": None}
    errors, _, step = run(token_net(), 4, lr=0.05, weight_decay=0.1, **options)
    assert_close(errors, 2e-4)
    report = step.optimizer.layer_report()
    assert [row.covered for row in report] == [False, False, True, True, False]
    assert report[4].reason == "last layer: plain gradient" and report[4].rule == "plain"


def test_nothing_of_curvature_is_compiled() -> None:
    """One backward pass and one update: no capture, no refresh, no hooks."""
    net, x, labels = mlp(sizes=ODD)
    step = TrainStep(net, cross_entropy(), Muon(net, 0.02))
    for a, b in batches(x, labels, 3):
        step(Tensor(a), Tensor(b))
    compiled = {type(g).__name__ for g in step._graphs if g.compile_cache}
    assert compiled == {"PlainStep", "ApplyStep"}
    assert step.optimizer.probe_count == 0 and not step.optimizer.hooked
    assert step.optimizer.failed_inversions == 0


def test_an_orthogonal_gradient_keeps_its_direction() -> None:
    """V of D with D D^T = s^2 I is c D, and all singular values c s lie in [0.68, 1.2]."""
    rng = np.random.default_rng(0)
    for shape in ((4, 6), (6, 4), (5, 5)):
        q = np.linalg.qr(rng.standard_normal((max(shape), min(shape))))[0]
        d = 0.3 * (q if shape[0] > shape[1] else q.T)
        found = Orthogonalized()(Tensor(d[None].astype(np.float32))).asnumpy()[0]
        factor = (found * d).sum() / (d * d).sum()
        np.testing.assert_allclose(found, factor * d, atol=1e-5)
        assert 0.68 <= 0.3 * factor <= 1.2


@pytest.mark.parametrize("shape", [(2, 5, 9), (2, 9, 5), (3, 1, 7)])
def test_singular_vectors_stay(shape: tuple[int, int, int]) -> None:
    """U^T V W is diagonal in D's singular vectors, and each value is the quintic's own."""
    d = np.random.default_rng(1).standard_normal(shape)
    found = Orthogonalized()(Tensor(d.astype(np.float32))).asnumpy()
    for one, v in zip(d, found):
        u, s, wt = np.linalg.svd(one, full_matrices=False)
        inner = u.T @ v @ wt.T
        values = s / (np.linalg.norm(one) + 1e-7)
        for _ in range(5):
            values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
        np.testing.assert_allclose(inner, np.diag(values), atol=2e-5)
        np.testing.assert_allclose(v, newton_schulz(one), atol=2e-5)


def test_a_zero_gradient_is_no_step() -> None:
    found = Orthogonalized()(Tensor(np.zeros((1, 3, 4), np.float32))).asnumpy()
    assert (found == 0).all()


def test_a_row_is_normalised_momentum() -> None:
    """W of 1 x d: V = c m / |m|, with the quintic's c for the singular value 1."""
    ms.set_context(mode=ms.GRAPH_MODE)
    net, x, labels = mlp(sizes=(6, 1, 3))
    options = {"momentum": 0.7, "nesterov": False}
    step = TrainStep(net, cross_entropy(), Muon(net, 0.5, rest_learning_rate=1e-3, **options))
    c, m = 1.0, np.zeros((1, 6))
    for _ in range(5):
        c = 3.4445 * c - 4.7750 * c**3 + 2.0315 * c**5
    for a, b in batches(x, labels, 3):
        reference = oracle_net(net)
        reference.loss(a, b)
        m = 0.7 * m + 0.3 * reference.layers[0].d["weight"]
        before = net[0].weight.asnumpy().astype(np.float64)
        step(Tensor(a), Tensor(b))
        expected = before - 0.5 * c * m / np.linalg.norm(m)
        np.testing.assert_allclose(net[0].weight.asnumpy(), expected, atol=1e-5)


def test_all_in_one_graph_does_the_same() -> None:
    x, labels = mlp()[1:]
    found = []
    for wrap in (lambda step: step, Outer):
        net = mlp()[0]
        step = TrainStep(net, cross_entropy(), Muon(net, 0.05, **REST))
        run_step = wrap(step)
        for a, b in batches(x, labels, 4):
            run_step(Tensor(a), Tensor(b))
        found.append({k: p.asnumpy() for k, p in step.parameters_dict().items()})
    for key, value in found[0].items():
        np.testing.assert_allclose(value, found[1][key], rtol=1e-4, atol=1e-5, err_msg=key)


def covered(net: nn.Cell, **options) -> list[str]:
    return [row.layer for row in Muon(net, 0.1, **options).layer_report() if row.covered]


class Named(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.last, self.b = nn.Dense(3, 4), nn.Dense(4, 4), nn.Dense(4, 2)


def test_which_layers_are_left_out() -> None:
    net = nn.SequentialCell(nn.Dense(3, 4), nn.SequentialCell(nn.Dense(4, 4), nn.Dense(4, 2)))
    assert covered(net) == ["0", "1.0"]
    assert covered(net, exclude=None) == ["0", "1.0", "1.1"]
    assert covered(net, exclude=["1"]) == ["0"]
    assert covered(net, exclude=["0", "1.1"]) == ["1.0"]
    assert covered(Named(), exclude=["last"]) == ["a", "b"]
    # There is no last of one.
    assert covered(nn.SequentialCell(nn.Dense(3, 2))) == ["0"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("momentum", 1.0),
        ("ns_steps", 0),
        ("nesterov", 1),
        ("exclude", "0"),
        ("exclude", []),
        ("exclude", ["head"]),
        ("exclude", [3]),
        ("damping", 0.1),
        ("factor_interval", 2),
        ("rest", "sgd"),
    ],
)
def test_values_out_of_range_are_named(option, value) -> None:
    with pytest.raises(UserError, match=option):
        Muon(mlp()[0], 0.1, **{option: value})
