"""EKFAC's statistics and updates against the float64 oracle and the explicit Fisher matrix."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from oracle import curvature as c
from oracle.baselines import Ekfac as Oracle
from oracle.bridge import oracle_net, randomise
from oracle.layers import Conv, Dense
from oracle.nets import batches, conv_net, mlp, small_conv_net, token_net
from oracle.training import compare, cross_entropy
from steps import Outer, assert_close, both_token_modes, data_for, train

from mindspore_thor import EKFAC, TrainStep
from mindspore_thor.linalg import moments

OF_ONE_SIDE = ("lr", "rate", "schedule", "lam", "loss_scale", "begin")


def run(problem, data=None, **options):
    """Both sides of a comparison; the oracle borrows the float32 eigenvectors and checks them."""
    options.setdefault("momentum", 0.0)
    made = {}

    def make_step(n: nn.Cell) -> nn.Cell:
        rate, damping = options.get("rate", options["lr"]), options.get("schedule")
        extra = {} if damping is None else {"damping": damping}
        extra["loss_scale"] = options.get("loss_scale", 1.0)  # which has to cancel
        made["step"] = TrainStep(n, cross_entropy(), EKFAC(n, rate, **known, **extra))
        if "begin" in options:
            options["begin"](made["step"])
        return made["step"]

    def make_oracle(o):
        layers = [layer for layer in o.layers if isinstance(layer, (Dense, Conv))]

        def basis(layer):
            found = made["step"].optimizer.curvatures[layers.index(layer)]
            return [v.asnumpy().astype(np.float64) for v in (found.vectors_a, found.vectors_g)]

        extra = {} if "schedule" not in options else {"damping": options["lam"]}
        return Oracle(o, lr=options["lr"], basis=basis, **known, **extra)

    options.setdefault("lr", 1.0)
    known = {k: v for k, v in options.items() if k not in OF_ONE_SIDE}
    return compare(problem[0], data_for(problem, data), make_step, make_oracle)


def assert_same_spectra(oracle: Oracle, step: nn.Cell, tolerance: float) -> None:
    layers = [layer for layer in oracle.net.layers if isinstance(layer, (Dense, Conv))]
    for layer, curvature in zip(layers, step.optimizer.curvatures):
        want = oracle.states[id(layer)].inverse
        got = curvature.spectrum().asnumpy()
        np.testing.assert_allclose(got, want, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize(
    ("problem", "chunk"),
    [(conv_net, 2**24), (small_conv_net, 100)],
    ids=["every kind, whole batch", "chunks"],
)
def test_one_step_on_convolutions(problem, chunk, monkeypatch) -> None:
    monkeypatch.setattr(moments, "LARGEST_CHUNK", chunk)
    errors, oracle, step = run(problem())
    assert_close(errors, 1e-4)
    assert_same_spectra(oracle, step, 1e-5)


@both_token_modes
def test_one_step_on_tokens(options) -> None:
    errors, _, _ = run(token_net(), **options)
    assert_close(errors, 1e-4)


def strided():
    """Few features and many positions, then many features and few positions, under BatchNorm."""
    net = nn.SequentialCell(
        nn.Conv2d(2, 3, 2, 1, "valid", has_bias=True),
        nn.BatchNorm2d(3),
        nn.LeakyReLU(),
        nn.Conv2d(3, 8, 2, 2, "valid"),
        nn.Flatten(),
        nn.Dense(32, 3),
    )
    rng = np.random.default_rng(4)
    x = rng.standard_normal((16, 2, 5, 5)).astype(np.float32)
    return randomise(net, 4), x, rng.integers(0, 3, 16).astype(np.int32)


@pytest.fixture(scope="module")
def several():
    """Eight steps on both sides, with everything changing, and what one step alone measured.

    (the comparison, the oracle's net at the start, (S, Q_A, Q_G) of each layer).
    """
    net, x, labels = strided()
    at_start, measured = oracle_net(net), []

    def one_step_and_back(step: nn.Cell) -> None:
        start = {k: p.asnumpy().copy() for k, p in step.parameters_dict().items()}
        train(step, [(x, labels)])
        for found in step.optimizer.curvatures:
            parts = (found.spectrum(), found.vectors_a, found.vectors_g)
            measured.append([part.asnumpy()[0].astype(np.float64) for part in parts])
        for k, p in step.parameters_dict().items():
            ops.assign(p, Tensor(start[k]))  # set_data would detach it from the compiled graphs

    compared = run(
        (net, x, labels),
        8,
        lr=0.05,
        momentum=0.8,
        weight_decay=0.03,
        factor_decay=0.6,
        factor_interval=2,
        inverse_interval=3,
        schedule=nn.ExponentialDecayLR(0.5, 0.8, 1),
        lam=lambda k: 0.5 * 0.8**k,
        loss_scale=256.0,
        begin=one_step_and_back,
    )
    at_start.loss(x, labels)
    return compared, at_start, measured


def test_s_is_the_fisher_diagonal_and_never_worse_than_kfac(several) -> None:
    """Sum S = tr F; ||F - EKFAC||_F <= ||F - KFAC||_F, both in the same basis.

    After one step: what is measured first enters as it is.
    """
    _, oracle, measured = several
    layers = [layer for layer in oracle.layers if isinstance(layer, (Dense, Conv))]
    assert len(layers) == len(measured) == 3
    for layer, (s, qa, qg) in zip(layers, measured):
        a, g = c.rows(layer, "bias" in layer.p)
        u = np.einsum("nti,ntj->nij", a[:, 0], g[:, 0]).reshape(len(a), -1)  # a (x) g
        fisher = u.T @ u / len(u)
        assert s.sum() == pytest.approx(np.trace(fisher), rel=1e-5)
        basis = np.kron(qa, qg)
        ekfac = (basis * s.T.reshape(-1)) @ basis.T
        factor_a, factor_g, t = c.factors(layer, "bias" in layer.p)
        kfac = t * np.kron(factor_a[0], factor_g[0])
        assert np.linalg.norm(fisher - ekfac) < 0.999 * np.linalg.norm(fisher - kfac)


def test_intervals_averages_and_schedules(several) -> None:
    """A, G and S at 0, 2, 4, ...; new bases at 0, 3 (S alone then), 6; lam of every step.

    The loss scale cancels in both passes.
    """
    (errors, oracle, step), _, _ = several
    assert_close(errors, 2e-4)
    assert_same_spectra(oracle, step, 1e-3)
    assert [row.accepted for row in step.optimizer.layer_report() if row.covered] == [3, 3, 3]


def normed() -> tuple[nn.Cell, list[tuple[np.ndarray, np.ndarray]]]:
    """BatchNorm on the input, whose statistics no weight touches; five batches.

    One layer: the graph with all phases in it is the largest of this file.
    """
    net = nn.SequentialCell(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 2, 1, "valid"), nn.Flatten())
    rng = np.random.default_rng(4)
    x = rng.standard_normal((16, 2, 2, 2)).astype(np.float32)
    return randomise(net, 4), batches(x, rng.integers(0, 3, 16).astype(np.int32), 5)


def test_all_phases_in_one_graph_do_the_same() -> None:
    """BatchNorm's running statistics too, which the second pass must not move twice."""
    found = []
    for wrap in (lambda step: step, Outer):
        net, data = normed()
        options = {"factor_decay": 0.6, "factor_interval": 2, "inverse_interval": 3}
        step = TrainStep(net, cross_entropy(), EKFAC(net, 0.05, **options))
        train(wrap(step), data)
        found.append({k: p.asnumpy() for k, p in step.parameters_dict().items()})
    for key, value in found[0].items():
        size = max(1e-3, np.abs(value).max())
        np.testing.assert_allclose(value, found[1][key], atol=1e-3 * size, err_msg=key)
    mean = np.zeros(2)
    for x, _ in data:
        mean = 0.9 * mean + 0.1 * x.astype(np.float64).mean((0, 2, 3))
    np.testing.assert_allclose(found[0]["0.moving_mean"], mean, atol=1e-6)


def test_a_bad_batch_leaves_no_trace() -> None:
    """A bad batch where a new basis is due: the next batch takes over the refresh."""
    net, data = normed()
    spoilt = data[0][0].copy()
    spoilt[0, 0, 0, 0] = np.nan
    step = TrainStep(net, cross_entropy(), EKFAC(net, 0.05, inverse_interval=2))
    start = {k: p.asnumpy().copy() for k, p in step.parameters_dict().items()}
    results = []
    for bad in (False, True):
        for k, p in step.parameters_dict().items():
            ops.assign(p, Tensor(start[k]))  # set_data would detach it from the compiled graphs
        train(step, data[:2])
        if bad:
            train(step, [(spoilt, data[2][1])])
        train(step, data[2:4])
        results.append([p.asnumpy().copy() for p in net.get_parameters()])
        assert int(step.skipped.asnumpy()) == int(bad)
    for p, a, b in zip(net.get_parameters(), *results):
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=p.name)
        assert np.abs(a - start[p.name]).max() > 1e-3, p.name


def test_fewer_steps_between_statistics_than_between_bases() -> None:
    """mlp, S averaged over three steps in one basis: 0 overwrites, 1 and 2 enter with 1 - decay."""
    errors, oracle, step = run(mlp(batch=24), 3, lr=0.05, factor_decay=0.7, inverse_interval=5)
    assert_close(errors, 1e-4)
    assert_same_spectra(oracle, step, 1e-4)
    assert step.optimizer.failed_inversions == 0
