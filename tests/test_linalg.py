"""Property tests of the tensor math over odd shapes, against NumPy."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mindspore import Tensor
from oracle.curvature import block_diagonal
from oracle.layers import Conv

from mindspore_thor.linalg.blocks import apply_blocks, block_layout
from mindspore_thor.linalg.inverse import damped_inverse, eigen_each
from mindspore_thor.linalg.moments import block_moments, with_ones
from mindspore_thor.linalg.patches import ConvGeometry, unfold

few = settings(max_examples=15, deadline=None, derandomize=True)


@pytest.fixture(autouse=True)
def _pynative() -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def padded_blocks(m: np.ndarray, size: int) -> np.ndarray:
    """Diagonal blocks of [d, d], the last one padded with zeros."""
    d = len(m)
    count = -(-d // size)
    full = np.zeros((count * size, count * size))
    full[:d, :d] = m
    return np.stack(
        [full[k * size : (k + 1) * size, k * size : (k + 1) * size] for k in range(count)]
    )


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@few
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    pairs,
    pairs,
    pairs,
    st.one_of(st.just("same"), st.tuples(*[st.integers(0, 2)] * 4)),
    st.tuples(st.integers(3, 8), st.integers(3, 8)),
)
def test_unfold_is_numpys_patches(groups, width, kernel, stride, dilation, pad, size) -> None:
    """Any kernel, stride, dilation, padding and group; features in the order (C, kh, kw)."""
    if pad != "same":
        spans = [
            size[i] + pad[2 * i] + pad[2 * i + 1] - dilation[i] * (kernel[i] - 1) for i in range(2)
        ]
        assume(min(spans) >= 1)
    x = normal(1, 2, groups * width, *size)
    geometry = ConvGeometry(kernel, stride, None if pad == "same" else pad, dilation, groups)
    expected = Conv(
        np.zeros((groups, width, *kernel)), None, stride, pad, dilation, groups
    ).patches(x)
    np.testing.assert_array_equal(
        unfold(Tensor(x), geometry).asnumpy(), expected.astype(np.float32)
    )


@few
@given(
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 10),
    st.booleans(),
)
def test_block_moments(n, groups, d, positions, split, ones) -> None:
    """Diagonal blocks of (1/NT) sum c c^T, the ragged one padded with zeros."""
    columns = normal(2, n, groups, d, positions)
    full = columns.astype(np.float64)
    tensor = Tensor(columns)
    if ones:
        full = np.concatenate([full, np.ones((n, groups, 1, positions))], 2)
        tensor = with_ones(tensor)
        d += 1
    layout = block_layout(d, split)
    got = block_moments(tensor, layout).asnumpy()
    moments = np.einsum("ngit,ngjt->gij", full, full) / (n * positions)
    assert layout.padded == -(-d // min(split, d)) * min(split, d)
    for k in range(groups):
        np.testing.assert_allclose(got[k], padded_blocks(moments[k], min(split, d)), atol=1e-5)


@few
@given(
    st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 10), st.integers(1, 10)
)
def test_apply_blocks_is_the_block_diagonal_product(
    groups, rows, cols, split_rows, split_cols
) -> None:
    left, right, m = (
        normal(3, groups, rows, rows),
        normal(4, groups, cols, cols),
        normal(5, groups, rows, cols),
    )
    a, b = block_layout(rows, split_rows), block_layout(cols, split_cols)
    blocks = [
        Tensor(np.stack([padded_blocks(k, layout.size) for k in full]).astype(np.float32))
        for full, layout in ((left, a), (right, b))
    ]
    got = apply_blocks(blocks[0], Tensor(m), blocks[1], a, b).asnumpy()
    for k in range(groups):
        expected = (
            block_diagonal(left[k].astype(np.float64), split_rows)
            @ m[k]
            @ block_diagonal(right[k], split_cols)
        )
        np.testing.assert_allclose(got[k], expected, atol=1e-4)


@few
@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 30), st.floats(1e-3, 10.0))
def test_damped_inverse(count, d, rank, damping) -> None:
    """M M^-1 = I, also for a rank-deficient matrix, and the inverse is exactly symmetric."""
    x = normal(6, count, rank, d).astype(np.float64)
    m = (x.transpose(0, 2, 1) @ x / rank).astype(np.float32)
    inverse, ok = damped_inverse(Tensor(m), Tensor(damping, ms.float32))
    inverse = inverse.asnumpy().astype(np.float64)
    assert bool(ok.asnumpy())
    np.testing.assert_array_equal(inverse, inverse.transpose(0, 2, 1))
    damped = m.astype(np.float64) + np.float32(damping) * np.eye(d)
    condition = np.linalg.cond(damped).max()
    assert np.abs(damped @ inverse - np.eye(d)).max() < 1e-6 * condition + 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.5])
def test_damped_inverse_says_that_it_failed(bad) -> None:
    """NaN, infinity, and what damping makes exactly singular: ok is false, nothing raises."""
    m = np.eye(3, dtype=np.float32)[None].repeat(2, 0)
    m[1] = np.eye(3) * bad if np.isfinite(bad) else bad
    _, ok = damped_inverse(Tensor(m), Tensor(0.5, ms.float32))
    assert not bool(ok.asnumpy())


@few
@given(st.integers(1, 3), st.integers(1, 10), st.integers(1, 20))
def test_eigen_each(groups, d, rank) -> None:
    """Q diag(w) Q^T is the matrix, Q orthonormal, w >= 0 also for a rank-deficient matrix."""
    x = normal(7, groups, rank, d).astype(np.float64)
    m = (x.transpose(0, 2, 1) @ x / rank).astype(np.float32)
    w, q, ok = eigen_each(Tensor(m))
    w, q = w.asnumpy().astype(np.float64), q.asnumpy().astype(np.float64)
    assert ok.asnumpy().all() and (w >= 0).all()
    np.testing.assert_allclose(
        q.transpose(0, 2, 1) @ q, np.broadcast_to(np.eye(d), q.shape), atol=1e-5
    )
    np.testing.assert_allclose(
        q * w[:, None, :] @ q.transpose(0, 2, 1), m, atol=1e-5 * max(1.0, np.abs(m).max())
    )
