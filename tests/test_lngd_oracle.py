"""LNGD's factors, directions and rates against float64 formulas and the explicit Fisher matrix."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from oracle.bridge import oracle_net
from oracle.natural import Lngd, lngd_factors, per_sample, split
from oracle.nets import batches, conv_net, mlp, token_net
from oracle.training import compare, cross_entropy

from mindspore_thor import LNGD, TrainStep
from mindspore_thor.curvature.layer_sample import (
    LayerInverse,
    LayerSampleRule,
    LayerSampleSettings,
)
from mindspore_thor.linalg.patches import ConvGeometry
from mindspore_thor.linalg.random import normal
from mindspore_thor.nn.rows import ConvRows, DenseRows


def run(problem, data=None, **options):
    net, x, labels = problem
    lr = options.pop("lr", 1.0)
    options.setdefault("momentum", 0.0)
    return compare(
        net,
        data or [(x, labels)],
        lambda n: TrainStep(n, cross_entropy(), LNGD(n, lr, sampling="analytic", **options)),
        lambda o: Lngd(o, lr=lr, **options),
    )


def assert_close(errors: dict[str, float], tolerance: float) -> None:
    bad = {name: error for name, error in errors.items() if not error < tolerance}
    assert not bad, bad


# -- whole steps


@pytest.mark.parametrize("fisher", ["per_sample", "batch"])
def test_one_step_on_every_convolution(fisher) -> None:
    """lr = 1, intervals of 1: every covered weight moves by minus alpha_l d_l."""
    errors, _, step = run(conv_net(), fisher=fisher, mu=1e-4)
    assert_close(errors, 2e-4)
    rows = {row.layer: (row.covered, row.reason) for row in step.optimizer.layer_report()}
    assert rows["0"] == (True, "phi = LeakyReLU (next in its SequentialCell)")
    assert rows["2"] == (True, "phi' = 1: no activation is known to follow directly")
    assert rows["12"] == (True, "phi = LeakyReLU (its own)")
    assert not rows["3"][0] and not rows["11"][0]  # BatchNorm and LayerNorm
    assert all(row.accepted == 1 for row in step.optimizer.layer_report() if row.covered)


@pytest.mark.parametrize(
    "options", [{"adaptive_rate": False}, {"gradients": "true"}], ids=["LNGD-sample", "LNGD-lr"]
)
def test_one_step_on_tokens(options) -> None:
    """Both ablations; tokens are positions of one sample, Embedding and LayerNorm stay plain."""
    errors, _, step = run(token_net(), **options)
    assert_close(errors, 2e-4)
    covered = [row.covered for row in step.optimizer.layer_report()]
    assert covered == [False, False, True, True, True]


@pytest.mark.parametrize("intervals", [(2, 4), (3, 2)], ids=str)
def test_several_steps_with_everything_changing(intervals) -> None:
    """Averages, intervals that do not match, the rate inside the momentum, decay, loss scale."""
    net, x, labels = mlp(sizes=(4, 6, 3))
    lr = [0.2 * 0.7**k for k in range(9)]
    shared = {
        "momentum": 0.8, "weight_decay": 0.03, "ema_old_weight": 0.6, "mu": 0.01,
        "factor_interval": intervals[0], "inverse_interval": intervals[1],
    }  # fmt: skip
    errors, oracle, step = compare(
        net,
        batches(x, labels, 7),
        lambda n: TrainStep(
            n, cross_entropy(), LNGD(n, lr, sampling="analytic", loss_scale=64.0, **shared)
        ),
        lambda o: Lngd(o, lr=lr, **shared),
    )
    assert_close(errors, 2e-4)
    for i, curvature in enumerate(step.optimizer.curvatures):
        expected = np.concatenate([f.ravel() for f in oracle.factors[i]])
        stored = curvature.statistics.asnumpy()[: len(expected)]
        np.testing.assert_allclose(stored, expected, atol=1e-4 * np.abs(expected).max())
    counts = [row.accepted for row in step.optimizer.layer_report()]
    assert counts == [-(-7 // intervals[1])] * 2


def test_layer_wise_rates_are_no_worse_than_a_common_one() -> None:
    """L8: the quadratic model at alpha_l d_l is at most its minimum over one rate for all layers."""
    _, x, labels = mlp()
    moved = {}
    for adaptive in (True, False):
        net = mlp()[0]
        before = oracle_net(net).weights()
        optimizer = LNGD(
            net, 1.0, momentum=0.0, mu=0.0, sampling="analytic", adaptive_rate=adaptive
        )
        TrainStep(net, cross_entropy(), optimizer)(Tensor(x), Tensor(labels))
        moved[adaptive] = {p.name: before[p.name] - p.asnumpy() for p in net.trainable_params()}
    oracle = oracle_net(mlp()[0])
    oracle.loss(x, labels)

    def model(step: dict[str, np.ndarray]) -> tuple[float, float]:
        """Sum over layers of <v, grad> and of v^T F v."""
        linear = quadratic = 0.0
        for i, layer in enumerate(oracle.layers):
            u = per_sample(layer)
            weight = step[f"{i}.weight"][None]
            v = np.concatenate([weight, step[f"{i}.bias"][None, :, None]], 2).ravel()
            linear += v @ u.mean(0)
            quadratic += ((u @ v) ** 2).mean()
        return linear, quadratic

    linear, quadratic = model(moved[True])
    own = -linear + 0.5 * quadratic
    linear, quadratic = model(moved[False])
    common = -(linear**2) / (2 * quadratic)
    assert own < common < 0
    assert own < 1.01 * common  # the layers' rates do differ here


# -- factors

RNG = np.random.default_rng(7)
CONV = ConvRows(None, ConvGeometry((2, 2), (1, 1), (0,) * 4, (1, 1), 2), (4, 1, 2, 2))


def rule_of(rows: nn.Cell, activation: nn.Cell | None = None, bias: bool = True, **changes):
    options = {
        "sampling": "gaussian", "true_gradients": False, "adaptive_rate": True, "per_sample": True,
        "mu": 0.0, "bounds": (1e-5, 1e-2),
    }  # fmt: skip
    options.update(changes)
    return LayerSampleRule(rows, bias, 1.0, activation, 12345, 0.95, LayerSampleSettings(**options))


class Call(nn.Cell):
    """A rule's method in a graph of its own."""

    def __init__(self, rule: nn.Cell, what: str) -> None:
        super().__init__()
        self.rule = rule
        self.what = what

    def construct(self, a, b, c):
        if self.what == "factors":
            return self.rule.factors(a, b)
        if self.what == "squares":
            return self.rule.squared_gradients(a, b, c)
        return self.rule.curvature_along(a, b, c, c.sum())


def split_factors(flat: np.ndarray, rule) -> tuple[np.ndarray, np.ndarray]:
    groups, d_in = rule.rows.groups, rule.d_in
    return flat[: rule.end_phi].reshape(groups, d_in, d_in), flat[rule.end_phi :].reshape(
        groups, -1
    )


def dense_case(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, g o g, and the package's Phi and psi of a Dense layer without positions."""
    x = RNG.standard_normal((n, 4)).astype(np.float32)
    squares = (RNG.standard_normal((n, 1, 3, 1)) ** 2).astype(np.float32)
    rule = rule_of(DenseRows(4, 3, "share"))
    flat = Call(rule, "factors")(Tensor(x), Tensor(squares), Tensor(0, ms.int32)).asnumpy()
    phi, psi = split_factors(flat.astype(np.float64), rule)
    return np.c_[x, np.ones(n)].astype(np.float64), squares[:, 0, :, 0], phi[0], psi[0]


def test_traces_and_partial_traces_are_those_of_the_fisher_matrix() -> None:
    """L1 and L2, with the explicit F = E[a a^T (x) diag(g o g)]."""
    a, squares, phi, psi = dense_case(6)
    f = np.einsum("ni,nj,no,op->iojp", a, a, squares, np.eye(3)) / 6
    assert np.trace(phi) == pytest.approx(np.einsum("ioio", f), rel=1e-6)
    assert psi.sum() == pytest.approx(1.0, rel=1e-6)
    np.testing.assert_allclose(phi, np.einsum("iojo->ij", f), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(psi * np.trace(phi), np.einsum("ioip->op", f).diagonal(), rtol=1e-5)


def test_one_sample_is_exact() -> None:
    """L3: Phi (x) Psi == a a^T (x) diag(g o g) for N = 1."""
    a, squares, phi, psi = dense_case(1)
    expected = np.kron(np.outer(a[0], a[0]), np.diag(squares[0]))
    got = np.kron(phi, np.diag(psi))
    np.testing.assert_allclose(got, expected, atol=1e-6 * np.abs(expected).max())


def test_positions_and_groups() -> None:
    """Sums over positions, one pair of factors per group, no bias."""
    x = RNG.standard_normal((5, 2, 3, 4)).astype(np.float32)
    squares = (RNG.standard_normal((5, 2, 2, 6)) ** 2).astype(np.float32)
    rule = rule_of(CONV, bias=False)
    flat = Call(rule, "factors")(Tensor(x), Tensor(squares), Tensor(0, ms.int32)).asnumpy()
    a = CONV.input_columns(Tensor(x)).asnumpy().astype(np.float64)
    expected = lngd_factors(a.transpose(0, 1, 3, 2), squares.transpose(0, 1, 3, 2))
    for got, value in zip(split_factors(flat, rule), expected):
        np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-5)


def test_samples_respect_the_mask_and_average_to_the_analytic_factors() -> None:
    """L4: g is zero where the ReLU is off; the mean over R draws approaches phi'^2 within 3/sqrt(R)."""
    rule = rule_of(DenseRows(4, 3, "share"), nn.ReLU())
    s = RNG.standard_normal((8, 3)).astype(np.float32)
    x = RNG.standard_normal((8, 4)).astype(np.float32)
    draw, factors = Call(rule, "squares"), Call(rule, "factors")
    repeats = 300
    total = np.zeros((8, 1, 3, 1))
    mean = 0.0
    for step in range(repeats):
        squares = draw(Tensor(s), Tensor(s), Tensor(step, ms.int32))
        total += squares.asnumpy()
        flat = factors(Tensor(x), squares, Tensor(0, ms.int32)).asnumpy()
        mean = mean + flat[: rule.end_phi].astype(np.float64) / repeats
    mask = (s > 0).reshape(8, 1, 3, 1)
    assert (total[~mask] == 0).all() and (total[mask] > 0).all()
    exact = rule_of(DenseRows(4, 3, "share"), nn.ReLU(), sampling="analytic")
    squares = Call(exact, "squares")(Tensor(s), Tensor(s), Tensor(0, ms.int32)).asnumpy()
    np.testing.assert_array_equal(squares, mask)
    a = np.c_[x, np.ones(8)][:, None, None].astype(np.float64)
    phi, _ = lngd_factors(a, mask.transpose(0, 1, 3, 2).astype(np.float64))
    # One draw's Phi has a relative standard deviation of order one: var(eps^2) = 2.
    scale = np.trace(phi[0])
    np.testing.assert_allclose(mean.reshape(5, 5), phi[0], atol=3 / np.sqrt(repeats) * scale)


def test_smooth_activation() -> None:
    """phi'^2 of the sigmoid, analytically."""
    rule = rule_of(DenseRows(4, 3, "share"), nn.Sigmoid(), sampling="analytic")
    s = RNG.standard_normal((5, 3)).astype(np.float32)
    got = Call(rule, "squares")(Tensor(s), Tensor(s), Tensor(0, ms.int32)).asnumpy()
    sigma = 1 / (1 + np.exp(-s.astype(np.float64)))
    np.testing.assert_allclose(got[:, 0, :, 0], (sigma * (1 - sigma)) ** 2, rtol=1e-5)


# -- damping and rate


@pytest.mark.parametrize(("d_out", "lam"), [(200, 0.005), (50, 0.01)])
def test_damping_of_psi(d_out, lam) -> None:
    """L7: an entry of psi that is zero is inverted to 1 / lam; the first holds the whole trace."""
    cell = LayerInverse(1, 2, d_out, (1e-5, 1e-2))
    psi = np.zeros(d_out, np.float32)
    psi[0] = 1
    phi = np.array([[3.0, 1.0], [1.0, 2.0]], np.float32)
    old = np.zeros(4 + d_out, np.float32)
    found = cell(Tensor(np.concatenate([phi.ravel(), psi])), Tensor(old)).asnumpy()
    np.testing.assert_allclose(found[5:-1], 1 / lam, rtol=1e-6)
    assert found[4] == pytest.approx(1 / (1 + lam), rel=1e-6)
    # The mean eigenvalue of Phi is 2.5, clipped to 0.01.
    np.testing.assert_allclose(
        found[:4].reshape(2, 2), np.linalg.inv(phi + 0.01 * np.eye(2)), rtol=1e-5
    )
    assert found[-1] == 0


def test_small_and_zero_phi_take_the_lower_bound() -> None:
    cell = LayerInverse(1, 2, 1, (1e-5, 1e-2))
    for size, lam in ((0.0, 1e-5), (0.004, 0.004)):
        factors = np.array([size, 0, 0, size, 1], np.float32)
        found = cell(Tensor(factors), Tensor(np.zeros(5, np.float32))).asnumpy()
        np.testing.assert_allclose(found[[0, 3]], 1 / (size + lam), rtol=1e-5)


def test_a_phi_that_float32_cannot_invert_gets_more_damping_then_keeps_the_old_inverse() -> None:
    cell = LayerInverse(1, 3, 1, (1e-5, 1e-2))
    v = np.array([1.0, 1.1, 0.9]) * 3e4
    bad = np.outer(v, v).astype(np.float32)  # eigenvalues up to 3e9, damping 0.01
    old = np.arange(10, dtype=np.float32)
    found = cell(Tensor(np.append(bad.ravel(), np.float32(1))), Tensor(old)).asnumpy()
    raised = np.linalg.inv(bad.astype(np.float64) + 1e-3 * np.trace(bad) / 3 * np.eye(3))
    np.testing.assert_allclose(found[:9].reshape(3, 3), raised, atol=2e-2 * np.abs(raised).max())
    assert found[-1] == 0
    broken = np.append(np.full(9, np.nan), 1).astype(np.float32)
    found = cell(Tensor(broken), Tensor(old)).asnumpy()
    np.testing.assert_array_equal(found[:-1], old)
    assert found[-1] == 1


def conv_block():
    """The first convolution of conv_net after a backward pass, with its geometry and gradients."""
    net, x, labels = conv_net()
    oracle = oracle_net(net)
    oracle.loss(x, labels)
    layer = oracle.layers[0]
    cell = net[0]
    geometry = ConvGeometry((3, 2), (2, 1), (1, 0, 2, 1), (1, 1), 1)
    return layer, ConvRows(cell.conv2d, geometry, (4, 3, 3, 2))


def test_curvature_along_a_direction_is_that_of_the_dense_fisher_matrix() -> None:
    """L5 on a convolution with bias: d^T F d with F = U U^T / N written out."""
    layer, rows = conv_block()
    u = per_sample(layer)
    d = np.random.default_rng(0).standard_normal(u.shape[1])
    expected = d @ (u.T @ u / len(u)) @ d
    parts = split(layer, d)
    matrix = np.c_[parts["weight"].reshape(4, -1), parts["bias"]][None]
    arguments = (layer.x, matrix, layer.ds)
    tensors = [Tensor(value.astype(np.float32)) for value in arguments]
    assert float(Call(rule_of(rows), "along")(*tensors)) == pytest.approx(expected, rel=1e-5)


def test_the_rate_of_an_exact_newton_step_is_one() -> None:
    """L6: alpha = <d, grad> / d^T F d = 1 for d = F^-1 grad, mu = 0."""
    rng = np.random.default_rng(2)
    x, g = rng.standard_normal((20, 3)), rng.standard_normal((20, 2)) + 0.3
    u = np.einsum("no,ni->noi", g, np.c_[x, np.ones(20)]).reshape(20, -1)
    gradient = u.mean(0)
    d = np.linalg.solve(u.T @ u / 20, gradient)
    rule = rule_of(DenseRows(3, 2, "share"))
    arguments = (x, d.reshape(1, 2, 4), g / 20)
    tensors = [Tensor(value.astype(np.float32)) for value in arguments]
    along = float(Call(rule, "along")(*tensors))
    assert d @ gradient / along == pytest.approx(1.0, rel=1e-5)


class Gradients(nn.Cell):
    def __init__(self, rule: nn.Cell) -> None:
        super().__init__()
        self.rule = rule

    def construct(self, x, weight, bias, dout, inverses):
        return self.rule.gradients(x, weight, bias, dout, inverses)


def test_the_scale_of_the_direction_cancels() -> None:
    """L5: with mu = 0, alpha_l d_l does not change when the inverse factors grow threefold."""
    rng = np.random.default_rng(4)
    values = [rng.standard_normal(shape) for shape in ((6, 3), (2, 3), (2,), (6, 2))]
    inverse = np.concatenate([np.diag([1.0, 2.0, 3.0, 0.5]).ravel(), [2.0, 5.0]])
    cell = Gradients(rule_of(DenseRows(3, 2, "share")))
    found = [
        cell(*(Tensor(v.astype(np.float32)) for v in [*values, scale * inverse]))
        for scale in (1.0, 3.0)
    ]
    for one, three in zip(*found):
        np.testing.assert_allclose(one.asnumpy(), three.asnumpy(), rtol=1e-5)
        assert np.abs(one.asnumpy()).max() > 1e-3


# -- the generator


def test_generator() -> None:
    """Standard normal by its moments and by Kolmogorov and Smirnov; a function of key and step."""
    n = 40_001
    z = normal(n, 77, Tensor(3, ms.int32)).asnumpy().astype(np.float64)
    assert z.shape == (n,) and np.isfinite(z).all()
    assert abs(z.mean()) < 4 / np.sqrt(n)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs((z**4).mean() - 3) < 4 * np.sqrt(96 / n)
    from math import erf

    cdf = np.array([0.5 * (1 + erf(v / np.sqrt(2))) for v in np.sort(z)])
    assert np.abs(cdf - (np.arange(n) + 0.5) / n).max() < 1.95 / np.sqrt(n)  # p = 0.001
    for lag in (1, 2, n // 2, n // 2 + 1):
        assert abs(np.corrcoef(z[lag:], z[:-lag])[0, 1]) < 4.5 / np.sqrt(n - lag)
    again = normal(n, 77, Tensor(3, ms.int32)).asnumpy()
    np.testing.assert_array_equal(again, z.astype(np.float32))
    for key, step in ((78, 3), (77, 4), (-5, 3)):
        other = normal(n, key, Tensor(step, ms.int32)).asnumpy()
        assert abs(np.corrcoef(z, other)[0, 1]) < 4.5 / np.sqrt(n)
