"""LNGD's factors, damping, rate and random numbers, against formulas."""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from oracle.bridge import oracle_net
from oracle.natural import lngd_factors, per_sample, split
from oracle.nets import conv_net

from mindspore_thor.curvature.refresh import Refresh
from mindspore_thor.curvature.state import LayerState, state
from mindspore_thor.graph.kind import GraphKind
from mindspore_thor.layers.types.conv2d import ConvRows
from mindspore_thor.layers.types.dense import DenseRows
from mindspore_thor.linalg.patches import ConvGeometry
from mindspore_thor.linalg.random import squared_normal
from mindspore_thor.methods.lngd_sample import LayerSample, LayerSampleSettings
from mindspore_thor.optim.base import RETRY_DAMPING

# -- factors

RNG = np.random.default_rng(7)
CONV = ConvRows(None, ConvGeometry((2, 2), (1, 1), (0,) * 4, (1, 1), 2), (4, 1, 2, 2))


def layer_of(
    rows: nn.Cell, activation: nn.Cell | None = None, bias: bool = True, **changes
) -> LayerSample:
    options = {
        "gaussian": True, "true_gradients": False, "adaptive_rate": True, "per_sample": True,
        "rate_samples": 0, "mu": 0.0, "bounds": (1e-5, 1e-2), "ema_old_weight": 0.95,
    }  # fmt: skip
    settings = LayerSampleSettings(**{**options, **changes})
    step = state(np.zeros(1, np.int32), "step")
    return LayerSample("layer", rows, GraphKind(), bias, activation, 12345, settings, step)


def rule_of(rows: nn.Cell, activation: nn.Cell | None = None, bias: bool = True, **changes):
    return layer_of(rows, activation, bias, **changes).make_direct_rule(bias, 1.0)


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
        return self.rule.along(a, b, c)


class Collect(nn.Cell):
    """Fresh statistics enter a layer."""

    def __init__(self, layer: LayerSample) -> None:
        super().__init__()
        self.layer = layer

    def construct(self, fresh):
        self.layer.collect(fresh)
        return fresh


class Invert(nn.Cell):
    """A layer's inversion, once more with more damping on request, and its counters."""

    def __init__(self, layer: LayerSample, again: bool) -> None:
        super().__init__()
        self.layer = layer
        self.refresher = Refresh([layer])
        self.again = again

    def construct(self, damping):
        self.refresher.refresh(damping)
        if self.again:
            self.refresher.retry(damping * RETRY_DAMPING)
        return self.layer.counts


def collected(layer: LayerSample, flat: np.ndarray, uses: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Phi and psi as the layer stores them, from the sums of ``uses`` uses."""
    Collect(layer)(Tensor(np.append(flat, [uses, uses, uses]).astype(np.float32)[None]))
    stored = layer.statistics.asnumpy()[0].astype(np.float64)
    phi = stored[: layer.end_phi].reshape(layer.groups, layer.d_in, layer.d_in)
    return phi, stored[layer.end_phi : layer.end].reshape(layer.groups, -1)


def dense_case(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, g o g, and the package's Phi and psi of a Dense layer without positions."""
    x = RNG.standard_normal((n, 4)).astype(np.float32)
    squares = (RNG.standard_normal((n, 1, 3, 1)) ** 2).astype(np.float32)
    layer = layer_of(DenseRows(4, 3, "share"))
    rule = layer.make_direct_rule(True, 1.0)
    flat = Call(rule, "factors")(Tensor(x), Tensor(squares), Tensor(0, ms.int32)).asnumpy()
    phi, psi = collected(layer, flat)
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


def test_positions_groups_uses_and_the_average() -> None:
    """Sums over positions, one pair of factors per group, no bias; statistics linear in samples."""
    x = RNG.standard_normal((5, 2, 3, 4)).astype(np.float32)
    squares = (RNG.standard_normal((5, 2, 2, 6)) ** 2).astype(np.float32)
    layer = layer_of(CONV, bias=False, ema_old_weight=0.75)
    call = Call(layer.make_direct_rule(False, 1.0), "factors")
    flat = call(Tensor(x), Tensor(squares), Tensor(0, ms.int32)).asnumpy()
    a = CONV.input_columns(Tensor(x)).asnumpy().astype(np.float64)
    one = lngd_factors(a.transpose(0, 1, 3, 2), squares.transpose(0, 1, 3, 2))
    # Two uses of the layer hand out twice the sums.
    for got, value in zip(collected(layer, 2 * flat, uses=2), one):
        np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-5)
    # The mean over single samples is that of the batch.
    parts = [
        call(Tensor(x[k : k + 1]), Tensor(squares[k : k + 1]), Tensor(0, ms.int32)).asnumpy()
        for k in range(5)
    ]
    np.testing.assert_allclose(np.mean(parts, 0), flat, rtol=1e-5, atol=1e-5)
    # psi is normalised for each collection, and then averaged.
    other = np.abs(RNG.standard_normal(flat.shape))
    phi, psi = collected(layer, other)
    expected = other[layer.end_phi :].reshape(2, 2)
    expected = 0.75 * one[1] + 0.25 * expected / expected.sum(1, keepdims=True)
    np.testing.assert_allclose(psi, expected, rtol=1e-5)
    mean = 0.75 * one[0] + 0.25 * other[: layer.end_phi].reshape(phi.shape)
    np.testing.assert_allclose(phi, mean, rtol=1e-5, atol=1e-5)
    # No uses, nothing happens.
    before = layer.statistics.asnumpy()
    collected(layer, 0 * other, uses=0)
    np.testing.assert_array_equal(layer.statistics.asnumpy(), before)


def test_samples_respect_the_mask_and_average_to_the_analytic_factors() -> None:
    """L4: g is zero where the ReLU is off; the mean of R draws is phi'^2 within 3/sqrt(R)."""
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
        mean = mean + flat[:25].astype(np.float64) / repeats
    mask = (s > 0).reshape(8, 1, 3, 1)
    assert (total[~mask] == 0).all() and (total[mask] > 0).all()
    exact = rule_of(DenseRows(4, 3, "share"), nn.ReLU(), gaussian=False)
    squares = Call(exact, "squares")(Tensor(s), Tensor(s), Tensor(0, ms.int32)).asnumpy()
    np.testing.assert_array_equal(squares, mask)
    a = np.c_[x, np.ones(8)][:, None, None].astype(np.float64)
    phi, _ = lngd_factors(a, mask.transpose(0, 1, 3, 2).astype(np.float64))
    # One draw's Phi has a relative standard deviation of order one: var(eps^2) = 2.
    scale = np.trace(phi[0])
    np.testing.assert_allclose(mean.reshape(5, 5), phi[0], atol=3 / np.sqrt(repeats) * scale)


def test_smooth_activation() -> None:
    """phi'^2 of the sigmoid, analytically."""
    rule = rule_of(DenseRows(4, 3, "share"), nn.Sigmoid(), gaussian=False)
    s = RNG.standard_normal((5, 3)).astype(np.float32)
    got = Call(rule, "squares")(Tensor(s), Tensor(s), Tensor(0, ms.int32)).asnumpy()
    sigma = 1 / (1 + np.exp(-s.astype(np.float64)))
    np.testing.assert_allclose(got[:, 0, :, 0], (sigma * (1 - sigma)) ** 2, rtol=1e-5)


# -- damping and rate


def inverted(phi: np.ndarray, psi: np.ndarray, again: bool = False) -> LayerState:
    """A layer after the inversion of these factors."""
    layer = layer_of(DenseRows(len(phi), len(psi), "share"), bias=False)
    flat = np.concatenate([phi.ravel(), psi, [1, 1, 1]]).astype(np.float32)
    layer.statistics.set_data(Tensor(flat[None]))
    Invert(layer, again)(Tensor(1.0, ms.float32))
    return LayerState(layer, 0)


@pytest.mark.parametrize(("d_out", "lam"), [(200, 0.005), (50, 0.01)])
def test_damping_of_psi(d_out, lam) -> None:
    """L7: an entry of psi that is zero is inverted to 1 / lam; the first holds the whole trace."""
    psi = np.zeros(d_out)
    psi[0] = 1
    phi = np.array([[3.0, 1.0], [1.0, 2.0]])
    layer = inverted(phi, psi)
    found = layer.inverse_psi.asnumpy()[0]
    np.testing.assert_allclose(found[1:], 1 / lam, rtol=1e-6)
    assert found[0] == pytest.approx(1 / (1 + lam), rel=1e-6)
    # The mean eigenvalue of Phi is 2.5, clipped to 0.01.
    expected = np.linalg.inv(phi + 0.01 * np.eye(2))
    np.testing.assert_allclose(layer.inverse_phi.asnumpy()[0], expected, rtol=1e-5)
    assert layer.counts.asnumpy().tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(("size", "lam"), [(0.0, 1e-5), (0.004, 0.004)])
def test_small_and_zero_phi(size, lam) -> None:
    found = inverted(size * np.eye(2), np.ones(1)).inverse_phi.asnumpy()[0]
    np.testing.assert_allclose(found, np.eye(2) / (size + lam), rtol=1e-5)


def test_a_phi_that_float32_cannot_invert_gets_more_damping() -> None:
    v = np.array([1.0, 1.1, 0.9]) * 3e4
    bad = np.outer(v, v)  # eigenvalues up to 3e9, damping 0.01
    once = inverted(bad, np.ones(1))
    np.testing.assert_array_equal(once.inverse_phi.asnumpy()[0], np.eye(3))
    assert once.counts.asnumpy().tolist() == [0, 0, 1, 1]
    layer = inverted(bad, np.ones(1), again=True)
    expected = np.linalg.inv(bad + 1e-5 * np.trace(bad) * np.eye(3))
    found = layer.inverse_phi.asnumpy()[0]
    np.testing.assert_allclose(found, expected, atol=2e-2 * np.abs(expected).max())
    assert layer.counts.asnumpy().tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("again", [False, True], ids=["refresh", "retry"])
def test_a_phi_that_nothing_can_invert_leaves_the_inverses_in_use(again) -> None:
    layer = inverted(np.full((3, 3), np.nan), np.ones(2), again)
    np.testing.assert_array_equal(layer.inverse_phi.asnumpy()[0], np.eye(3))
    np.testing.assert_array_equal(layer.inverse_psi.asnumpy()[0], np.ones(2))
    assert layer.counts.asnumpy().tolist() == [0, 0, 1, 1]


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
    part = d @ (u[:2].T @ u[:2] / 2) @ d
    found = Call(rule_of(rows, rate_samples=2), "along")(*tensors)
    assert float(found) == pytest.approx(part, rel=1e-5)


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
        self.counts = Tensor([1, 0, 0, 0], ms.int32)  # one refresh: there is a direction

    def construct(self, x, weight, bias, dout, inverse_phi, inverse_psi):
        inverses = (inverse_phi, inverse_psi, self.counts)
        return self.rule.gradients(x, weight, bias, dout, inverses, Tensor(1.0, ms.float32))


def test_the_scale_of_the_direction_cancels() -> None:
    """L5: with mu = 0, alpha_l d_l does not change when the inverse factors grow threefold."""
    rng = np.random.default_rng(4)
    values = [rng.standard_normal(shape) for shape in ((6, 3), (2, 3), (2,), (6, 2))]
    inverse_phi, inverse_psi = np.diag([1.0, 2.0, 3.0, 0.5]).ravel(), np.array([2.0, 5.0])
    cell = Gradients(rule_of(DenseRows(3, 2, "share")))
    found = [
        cell(*(Tensor(v.astype(np.float32)) for v in [*values, scale * inverse_phi, inverse_psi]))
        for scale in (1.0, 3.0)
    ]
    for one, three in zip(*found):
        np.testing.assert_allclose(one.asnumpy(), three.asnumpy(), rtol=1e-5)
        assert np.abs(one.asnumpy()).max() > 1e-3


def test_few_samples_without_a_gradient_do_not_make_the_rate_explode() -> None:
    """mean((d^T u_n)^2) >= <d, grad>^2 holds for all samples; one of them may say 0."""
    rng = np.random.default_rng(5)
    x, weight, bias, g = (rng.standard_normal(shape) for shape in ((6, 3), (2, 3), (2,), (6, 2)))
    g[0] = 0.0
    inverse_phi, inverse_psi = np.diag([1.0, 2.0, 3.0, 0.5]), np.array([2.0, 5.0])
    gradient = g.T @ np.c_[x, np.ones(6)]
    direction = inverse_psi[:, None] * gradient @ inverse_phi
    expected = direction / (direction * gradient).sum()
    cell = Gradients(rule_of(DenseRows(3, 2, "share"), rate_samples=1))
    values = (x, weight, bias, g, inverse_phi.ravel(), inverse_psi)
    dweight, dbias = cell(*(Tensor(v.astype(np.float32)) for v in values))
    np.testing.assert_allclose(dweight.asnumpy(), expected[:, :3], rtol=1e-5)
    np.testing.assert_allclose(dbias.asnumpy(), expected[:, 3], rtol=1e-5)


# -- the generator


def test_generator() -> None:
    """Chi-squared by its moments and by Kolmogorov and Smirnov; a function of key and step."""
    rows, count = 120, 333
    n = rows * count
    z = squared_normal(rows, count, 77, Tensor(3, ms.int32)).asnumpy()
    assert z.shape == (rows, count) and np.isfinite(z).all() and (z >= 0).all()
    flat = z.ravel().astype(np.float64)
    assert abs(flat.mean() - 1) < 4 * np.sqrt(2 / n)
    assert abs((flat**2).mean() - 3) < 4 * np.sqrt(96 / n)
    cdf = np.array([math.erf(np.sqrt(v / 2)) for v in np.sort(flat)])
    assert np.abs(cdf - (np.arange(n) + 0.5) / n).max() < 1.95 / np.sqrt(n)  # p = 0.001
    half = (count + 1) // 2  # the distance between the two numbers of a pair
    # On a bounded scale, where the usual error of a correlation holds.
    u = np.array([math.erf(np.sqrt(v / 2)) for v in flat])
    for lag in (1, 2, half, count, count + 1, n // 2):
        assert abs(np.corrcoef(u[lag:], u[:-lag])[0, 1]) < 4.5 / np.sqrt(n - lag)
    again = squared_normal(rows, count, 77, Tensor(3, ms.int32)).asnumpy()
    np.testing.assert_array_equal(again, z)
    # A row's numbers do not depend on the batch it is in.
    few = squared_normal(7, count, 77, Tensor(3, ms.int32)).asnumpy()
    np.testing.assert_allclose(few, z[:7], rtol=1e-5, atol=1e-6)
    later = squared_normal(4, count, 77, Tensor(3, ms.int32), 3).asnumpy()
    np.testing.assert_array_equal(later, few[3:])
    for key, step in ((78, 3), (77, 4), (-5, 3)):
        other = squared_normal(rows, count, key, Tensor(step, ms.int32)).asnumpy().ravel()
        other = np.array([math.erf(np.sqrt(v / 2)) for v in other])
        assert abs(np.corrcoef(u, other)[0, 1]) < 4.5 / np.sqrt(n)


def test_numbers_of_a_position_do_not_depend_on_the_sequence_length() -> None:
    """Nor on which rank draws them; those of other positions and sequences are others."""
    step, count = Tensor(3, ms.int32), 5
    drawn = {
        length: squared_normal(4, length * count, 77, step, positions=length).asnumpy()
        for length in (3, 8)
    }
    short, long = (z.reshape((4, length, count)) for length, z in drawn.items())
    np.testing.assert_array_equal(short, long[:, :3])
    later = squared_normal(2, 3 * count, 77, step, 2, positions=3).asnumpy()
    np.testing.assert_array_equal(later.reshape((2, 3, count)), short[2:])
    assert len(np.unique(long.reshape((-1, count)), axis=0)) == 4 * 8
