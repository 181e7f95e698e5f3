"""What the package does on Ascend in place of what it does on CPU: the arithmetic, on CPU."""

from __future__ import annotations

from unittest import mock

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, ops

from mindspore_thor.layers.types.dense import DenseRows
from mindspore_thor.linalg import device, inverse
from mindspore_thor.linalg.blocks import block_layout, split_matrix
from mindspore_thor.linalg.inverse import RESIDUAL_LIMIT, inverse_by_products, inverse_each
from mindspore_thor.linalg.moments import block_moments
from mindspore_thor.linalg.newton_schulz import newton_schulz
from mindspore_thor.methods.fngd_gram import SampleGram


@pytest.fixture(autouse=True)
def _pynative() -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE)


def with_condition(seed: int, n: int, d: int, condition: float) -> np.ndarray:
    """Symmetric positive definite [n, d, d], largest eigenvalue 1, in float32."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.standard_normal((n, d, d)))[0]
    m = (q * np.geomspace(1.0, 1.0 / condition, d)) @ q.transpose(0, 2, 1)
    return (0.5 * (m + m.transpose(0, 2, 1))).astype(np.float32)


def relative_error(got: Tensor, m: np.ndarray) -> float:
    exact = np.linalg.inv(m.astype(np.float64))
    return float(np.abs(got.asnumpy() - exact).max() / np.abs(exact).max())


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("d", [2, 7, 33, 128])
def test_newton_schulz_is_the_inverse(d: int, condition: float) -> None:
    """Error and residual of the order of float32's precision times the condition number."""
    m = with_condition(1, 3, d, condition)
    got = newton_schulz(Tensor(m))
    epsilon = float(np.finfo(np.float32).eps)
    assert relative_error(got, m) < 16 * epsilon * condition
    residual = m.astype(np.float64) @ got.asnumpy() - np.eye(d)
    assert np.abs(residual).max() < min(16 * epsilon * condition, RESIDUAL_LIMIT)


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_newton_schulz_takes_any_unit_and_badly_scaled_rows(scale: float) -> None:
    """Rows and columns of different units change the condition number only for others."""
    units = np.geomspace(1.0, 1e3, 9, dtype=np.float32)
    m = (units[:, None] * with_condition(2, 2, 9, 10.0) * units * scale).astype(np.float32)
    product = m.astype(np.float64) @ newton_schulz(Tensor(m)).asnumpy()
    # The residual in the units of its rows.
    residual = product / units[:, None] * units - np.eye(9)
    assert np.abs(residual).max() < 1e-4


@pytest.mark.parametrize(("dim", "split"), [(10, 4), (130, 128), (9, 3)])
def test_ragged_blocks(dim: int, split: int) -> None:
    """A padded block has only its damping there: its inverse is that of the real part."""
    m = with_condition(3, 1, dim, 50.0)
    layout = block_layout(dim, split)
    blocks = split_matrix(Tensor(m), layout, layout).asnumpy()
    blocks = blocks.reshape(layout.blocks, layout.blocks, split, split)
    diagonal = np.stack([blocks[k, k] for k in range(layout.blocks)])
    got, ok = inverse_by_products(Tensor(diagonal + np.float32(0.03) * np.eye(split, dtype="f4")))
    assert ok.asnumpy().all()
    last = dim - split * (layout.blocks - 1)
    part = m[0, -last:, -last:].astype(np.float64) + 0.03 * np.eye(last)
    np.testing.assert_allclose(
        got.asnumpy()[-1, :last, :last], np.linalg.inv(part), rtol=1e-4, atol=1e-4
    )


def refused(m: np.ndarray) -> np.ndarray:
    """Which matrices Newton-Schulz alone does not claim to have inverted."""
    m = m.astype(np.float32)
    got = newton_schulz(Tensor(m))
    residual = ops.bmm(Tensor(m), got) - Tensor(np.eye(m.shape[1], dtype=np.float32))
    return ~inverse._sound(residual).asnumpy()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_matrix_is_found_among_good_ones(bad: float) -> None:
    m = with_condition(4, 3, 6, 10.0)
    m[1, 2, 3] = m[1, 3, 2] = bad
    np.testing.assert_array_equal(refused(m), [False, True, False])
    got, ok = inverse_by_products(Tensor(m))
    assert ok.asnumpy()[[0, 2]].all() and not ok.asnumpy()[1]
    assert relative_error(got[0:1], m[0:1]) < 1e-5


def test_what_is_not_positive_definite_is_refused() -> None:
    """A negative diagonal, an indefinite matrix with a positive one, a singular one."""
    indefinite = np.array([[1.0, 2.0], [2.0, 1.0]])
    assert refused(np.stack([-np.eye(2), indefinite, np.ones((2, 2)), np.zeros((2, 2))])).all()


def test_the_fallback_takes_over() -> None:
    """What products cannot invert the general operator does: indefinite, but regular."""
    m = np.array([[[1.0, 2.0], [2.0, 1.0]]], np.float32)
    got, ok = inverse_by_products(Tensor(m))
    assert ok.asnumpy().all()
    np.testing.assert_allclose(got.asnumpy(), np.linalg.inv(m), atol=1e-6)


def test_ascend_takes_products_and_others_do_not() -> None:
    m, shifts = Tensor(with_condition(5, 2, 5, 10.0)), Tensor(np.full(2, 0.1, np.float32))
    with mock.patch.object(inverse, "newton_schulz", side_effect=newton_schulz) as products:
        inverse_each(m, shifts)
        assert not products.called
        with mock.patch.object(inverse, "inverts_by_products", lambda: True):
            got, ok = inverse_each(m, shifts)
        assert products.called and ok.asnumpy().all()
    damped = m.asnumpy() + np.float32(0.1) * np.eye(5, dtype=np.float32)
    assert relative_error(got, damped) < 1e-5
    np.testing.assert_array_equal(got.asnumpy(), got.asnumpy().transpose(0, 2, 1))


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e6])
@pytest.mark.parametrize("positions", [1, 6])
def test_moments_of_half_precision_inputs(size: float, positions: int) -> None:
    """Gradients of any size: to float16's precision, 2^-11, of the largest entry per rounding."""
    x = np.random.default_rng(6).standard_normal((20, 1, 5, positions)) * size
    layout = block_layout(5, 3)
    with mock.patch.object(device, "on_ascend", lambda: True):
        got = block_moments(Tensor(x.astype(np.float32)), layout).asnumpy()[0]
    full = np.einsum("ngit,ngjt->ij", x, x) / (20 * positions)
    scale = full.max()
    np.testing.assert_allclose(got[0] / scale, full[:3, :3] / scale, atol=4 * 2.0**-11)
    np.testing.assert_allclose(got[1, :2, :2] / scale, full[3:, 3:] / scale, atol=4 * 2.0**-11)
    assert got.dtype == np.float32


def test_half_precision_inputs_do_not_overflow_and_keep_a_nan() -> None:
    multiply = ops.MatMul(transpose_b=True)
    x = np.full((2, 4096), 300.0, np.float32)  # 300^2 alone is beyond float16
    with mock.patch.object(device, "on_ascend", lambda: True):
        for narrow in (Tensor(x), Tensor(x.astype(np.float16))):
            got = device.gram(multiply, narrow, 4096).asnumpy()
            np.testing.assert_allclose(got, 4096 * 300.0**2, rtol=4 * 2.0**-11)
        zero = Tensor(np.zeros((2, 8), np.float32))
        assert not device.gram(multiply, zero, 8).asnumpy().any()
        x[0, 0] = np.nan
        assert np.isnan(device.gram(multiply, Tensor(x), 4096).asnumpy()[0]).all()


def test_other_devices_multiply_as_they_did() -> None:
    """Bit for bit, and in their own types."""
    multiply = ops.MatMul(transpose_b=True)
    x = Tensor(np.random.default_rng(7).standard_normal((6, 9)).astype(np.float32))
    expected = multiply(x, x).asnumpy()
    for found in (device.product(multiply, x, x, 9), device.gram(multiply, x, 9)):
        np.testing.assert_array_equal(found.asnumpy(), expected)
    assert device.narrow_type(x.dtype) == x.dtype


@pytest.mark.parametrize("rate", [0.1, Tensor(0.1, ms.float32)])
def test_the_momentum_step_is_the_same_everywhere(rate) -> None:
    """m <- 0.9 m + g, w <- w - 0.1 m, by one operator and by plain ones."""
    w, m, g = (np.random.default_rng(k).standard_normal(7).astype(np.float32) for k in range(3))
    for ascend in (False, True):
        weight, moment = (Parameter(Tensor(x), name=n) for x, n in ((w, "w"), (m, "m")))
        with mock.patch.object(device, "on_ascend", lambda ascend=ascend: ascend):
            device.momentum_step(weight, moment, rate, Tensor(g), 0.9)
        expected = 0.9 * m.astype(np.float64) + g
        np.testing.assert_allclose(moment.asnumpy(), expected, atol=1e-6)
        np.testing.assert_allclose(weight.asnumpy(), w - 0.1 * expected, atol=1e-6)


@pytest.mark.parametrize("memory", [2**20, 1])
@pytest.mark.parametrize(("d_in", "d_out", "tokens"), [(40, 3, 2), (3, 4, 30)])
def test_gram_matrix_of_half_precision_inputs(d_in, d_out, tokens, memory) -> None:
    """K of tokens' per-sample gradients, by pairs and by gradients, whole and in parts."""
    rng = np.random.default_rng(8)
    x, g = rng.standard_normal((6, tokens, d_in)), rng.standard_normal((6, tokens, d_out)) * 1e-7
    rows = DenseRows(d_in, d_out, "share")
    columns = Tensor(g.transpose(0, 2, 1)[:, None].astype(np.float32))
    with mock.patch.object(device, "on_ascend", lambda: True):
        got = SampleGram(rows, memory)(Tensor(x.astype(np.float32)), columns).asnumpy()
    u = np.einsum("nto,nti->noi", g, x).reshape(6, -1)
    expected = u @ u.T
    np.testing.assert_allclose(got / expected.max(), expected / expected.max(), atol=2e-2)


@pytest.mark.parametrize("bad", [None, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("last", [np.float32, np.float16])
def test_a_pass_is_finite_where_every_number_is(bad, last) -> None:
    """One number in any of the tensors decides, whatever their shapes and types."""
    values = [np.ones((2, 3), np.float32), np.full((), 65504.0, np.float32), np.ones(4, last)]
    if bad is not None:
        values[-1][2] = bad
    tensors = tuple(Tensor(x) for x in values)
    assert bool(device.all_finite(tensors).asnumpy()) is (bad is None)
    assert [bool(device.is_finite(x).asnumpy()) for x in tensors] == [True, True, bad is None]
