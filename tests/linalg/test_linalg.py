"""Property tests of the tensor math over odd shapes, against NumPy."""

from __future__ import annotations

from unittest import mock

import mindspore as ms
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mindspore import Tensor, nn
from oracle.curvature import block_diagonal
from oracle.layers import Conv

from mindspore_thor.graph.slices import every, part, part_or_all
from mindspore_thor.linalg import inverse
from mindspore_thor.linalg.blocks import BlockProduct, block_layout
from mindspore_thor.linalg.conv_moments import ConvMoments
from mindspore_thor.linalg.inverse import damped_inverse, eigen_each
from mindspore_thor.linalg.moments import block_moments, gathers_rows, with_ones
from mindspore_thor.linalg.patches import ConvGeometry, patches_of
from mindspore_thor.linalg.row_plan import row_plan

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


@few
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    axis=st.integers(0, 3),
    start=st.integers(0, 4),
    count=st.integers(1, 5),
    stride=st.integers(1, 3),
)
def test_slices(shape, axis, start, count, stride) -> None:
    assume(axis < len(shape) and start + count <= shape[axis])
    x = normal(3, *shape)
    before = (slice(None),) * axis
    for cut in (part, part_or_all):
        np.testing.assert_array_equal(
            cut(Tensor(x), start, count, axis).asnumpy(), x[(*before, slice(start, start + count))]
        )
    whole = Tensor(x)
    assert part_or_all(whole, 0, shape[axis], axis) is whole
    np.testing.assert_array_equal(
        every(Tensor(x), stride, axis).asnumpy(), x[(*before, slice(None, None, stride))]
    )


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


def assume_positions(size, pad, dilation, kernel) -> None:
    """At least one output position in both axes."""
    padding = (0, 0, 0, 0) if pad == "same" else pad
    spans = [
        size[i] + padding[2 * i] + padding[2 * i + 1] - dilation[i] * (kernel[i] - 1)
        for i in range(2)
    ]
    assume(pad == "same" or min(spans) >= 1)


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
    assume_positions(size, pad, dilation, kernel)
    x = normal(1, 2, groups * width, *size)
    geometry = ConvGeometry(kernel, stride, None if pad == "same" else pad, dilation, groups)
    expected = Conv(
        np.zeros((groups, width, *kernel)), None, stride, pad, dilation, groups
    ).patches(x)
    np.testing.assert_array_equal(
        patches_of(geometry)(Tensor(x)).asnumpy(), expected.astype(np.float32)
    )


kernels = st.tuples(st.integers(2, 4), st.integers(1, 3))


@few
@given(
    st.integers(1, 2),
    st.integers(1, 4),
    kernels,
    st.integers(1, 3),
    pairs,
    st.one_of(st.just("same"), st.tuples(*[st.integers(0, 3)] * 4)),
    st.tuples(st.integers(1, 7), st.integers(3, 7)),
    st.integers(0, 20),
)
def test_conv_moments_are_those_of_the_patches(
    groups, width, kernel, stride, dilation, pad, size, extra
) -> None:
    """Any geometry with row stride 1, whole factors and blocks that cut through channels."""
    strides = (1, stride)
    assume_positions(size, pad, dilation, kernel)
    taps = kernel[0] * kernel[1]
    layout = block_layout(width * taps, taps + extra)
    geometry = ConvGeometry(kernel, strides, None if pad == "same" else pad, dilation, groups)
    plan = row_plan(geometry, layout)
    assume(plan is not None)
    x = normal(1, 3, groups * width, *size)
    weight = np.zeros((groups, width, *kernel))
    patches = Conv(weight, None, strides, pad, dilation, groups).patches(x.astype(np.float64))
    n, _, d, positions = patches.shape
    got = ConvMoments(geometry, layout, plan)(Tensor(x)).asnumpy()
    for k in range(groups):
        columns = patches[:, k].transpose(1, 0, 2).reshape(d, n * positions)
        expected = padded_blocks(columns @ columns.T / (n * positions), layout.size)
        np.testing.assert_allclose(got[k], expected, atol=2e-6 * max(1.0, np.abs(expected).max()))


class Branch(nn.Cell):
    """Moments inside a branch on a tensor, as a capture has them."""

    def __init__(self, geometry: ConvGeometry, width: int, split: int | None) -> None:
        super().__init__()
        self.geometry, self.layout = geometry, block_layout(9 * width, split)
        self.plan = row_plan(geometry, self.layout)
        self.moments = ConvMoments(geometry, self.layout, self.plan)

    def construct(self, x: Tensor, flag: Tensor) -> Tensor:
        result = x.sum()
        if flag > 0:  # noqa: SIM108 (the branch is what is tested)
            result = self.moments(x)
        else:
            result = self.moments(x * 2.0)
        return result


@pytest.mark.parametrize(
    ("width", "size", "gathered", "split"),
    [(8, 2, True, None), (2, 9, False, None), (4, 9, False, 20), (4, 9, False, 18)],
)
def test_conv_moments_compile_both_ways(width, size, gathered, split) -> None:
    """Small images, whose columns are gathered over the batch, and large ones; cut out or not."""
    ms.set_context(mode=ms.GRAPH_MODE)
    assert gathers_rows(size * size, 3 * width) is gathered
    x = normal(5, 3, width, size, size)
    geometry = ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1)
    weight = np.zeros((1, width, 3, 3))
    patches = Conv(weight, None, (1, 1), (1, 1, 1, 1), (1, 1), 1).patches(x.astype(np.float64))
    columns = patches[:, 0].transpose(1, 0, 2).reshape(9 * width, -1)
    expected = columns @ columns.T / columns.shape[1]
    branch = Branch(geometry, width, split)
    assert branch.plan.once is (split == 20)
    got = branch(Tensor(x), Tensor(1, ms.int32)).asnumpy()[0]
    expected = padded_blocks(expected, branch.layout.size)
    np.testing.assert_allclose(got, expected, atol=2e-6 * np.abs(expected).max())


def test_rows_are_shared_where_that_saves_work() -> None:
    """3x3 with stride 1: the blocks of THOR (72 aligned, 128 not) and whole factors; else not."""
    square = ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1)
    assert row_plan(square, block_layout(144, 72)).whole
    cut = row_plan(square, block_layout(576, 128))
    assert not cut.whole and cut.offsets == (0, 2, 4, 6, 8) and cut.width == 15
    # Where few blocks share channels the whole is computed once, and they are cut out of it.
    once = row_plan(square, block_layout(144, 128))
    assert once.once and once.width == 16 and not cut.once
    assert row_plan(square, block_layout(576, None)).channels == tuple(range(64))
    assert row_plan(square, block_layout(576, 4)) is None
    strided = ConvGeometry((3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 1)
    assert row_plan(strided, block_layout(144, None)) is None


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
def test_a_block_product_is_the_block_diagonal_product(
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
    got = BlockProduct(groups, a, b)(blocks[0], Tensor(m), blocks[1]).asnumpy()
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


@pytest.mark.parametrize("device", ["CPU", "any other"])
@few
@given(groups=st.integers(1, 7), d=st.integers(1, 10), rank=st.integers(1, 20))
def test_eigen_decomposition(device, groups, d, rank) -> None:
    """Q diag(w) Q^T is the matrix, Q orthonormal, w >= 0 also for a rank-deficient matrix."""
    x = normal(7, groups, rank, d).astype(np.float64)
    m = (x.transpose(0, 2, 1) @ x / rank).astype(np.float32)
    with mock.patch.object(inverse, "has_batched_eigh", lambda: device == "CPU"):
        w, q, ok = eigen_each(Tensor(m))
    w, q = w.asnumpy().astype(np.float64), q.asnumpy().astype(np.float64)
    assert ok.asnumpy().all() and (w >= 0).all()
    np.testing.assert_allclose(
        q.transpose(0, 2, 1) @ q, np.broadcast_to(np.eye(d), q.shape), atol=1e-5
    )
    np.testing.assert_allclose(
        q * w[:, None, :] @ q.transpose(0, 2, 1), m, atol=1e-5 * max(1.0, np.abs(m).max())
    )


class AnyDevice(nn.Cell):
    """The decomposition of devices without a batched operator."""

    def construct(self, matrices):
        return inverse.eigh_each(matrices)


def nearly_empty(d: int) -> dict[str, np.ndarray]:
    """Factors [d, d] of constant, linearly dependent and widely spread inputs."""
    rng = np.random.default_rng(7)
    spread = rng.standard_normal((2 * d, d)) * 10.0 ** -rng.uniform(0, 16, d)
    rows = {
        "constant": np.ones((1, d)),
        "constant pixels": np.full((1, d), 255.0),
        "three values": np.arange(d)[None] % 3,
        "every other": np.stack([np.ones(d), np.arange(d) % 2]),
        "empty rows": np.concatenate([np.zeros((2 * d, d // 2)), spread[:, d // 2 :]], 1),
        "spread": spread,
        "nothing": np.zeros((1, d)),
    }
    return {name: (m.T @ m).astype(np.float32) for name, m in rows.items()}


def test_nearly_empty_factors_are_decomposed_in_a_graph() -> None:
    """In the first run of a graph, whose threads flush denormal numbers to zero."""

    @ms.jit
    def decompose(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return eigen_each(matrices)

    for d in (37, 300):
        factors = nearly_empty(d)
        w, q, ok = (x.asnumpy() for x in decompose(Tensor(np.stack(list(factors.values())))))
        for k, (name, factor) in enumerate(factors.items()):
            assert ok[k], name
            # Beside the largest eigenvalue, a float32 decomposition is right to some d roundings.
            exact = np.linalg.eigvalsh(factor.astype(np.float64))
            limit = 2e-7 * d * max(exact[-1], 1e-30)
            np.testing.assert_allclose(np.sort(w[k]), np.maximum(exact, 0), rtol=0, atol=limit)
            np.testing.assert_allclose(q[k].T @ q[k], np.eye(d), rtol=0, atol=1e-4)
            np.testing.assert_allclose((q[k] * w[k]) @ q[k].T, factor, rtol=0, atol=limit)


def test_the_decomposition_of_many_matrices_is_a_loop_in_the_graph() -> None:
    ms.set_context(mode=ms.GRAPH_MODE)
    x = normal(8, inverse.UNROLLED_LIMIT + 1, 5, 4)
    m = x.transpose(0, 2, 1) @ x
    w, q = (item.asnumpy() for item in AnyDevice()(Tensor(m)))
    np.testing.assert_allclose(q * w[:, None, :] @ q.transpose(0, 2, 1), m, atol=1e-4)
    np.testing.assert_allclose(w, np.linalg.eigvalsh(m.astype(np.float64)), atol=1e-4)


@few
@given(st.integers(1, 6), st.integers(1, 9), st.floats(0.1, 10.0))
def test_inverse_fourth_root(count, d, damping) -> None:
    """R^4 (M + damping I) = I."""
    x = normal(9, count, d + 2, d).astype(np.float64)
    m = (x.transpose(0, 2, 1) @ x / d).astype(np.float32)
    shifts = np.full(count, damping, np.float32)
    root, ok = inverse.inverse_fourth_root(Tensor(m), Tensor(shifts))
    assert ok.asnumpy().all()
    fourth = np.linalg.matrix_power(root.asnumpy().astype(np.float64), 4)
    product = fourth @ (m + damping * np.eye(d))
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(d), m.shape), atol=2e-3)


class FourthRoot(nn.Cell):
    def construct(self, matrices, shifts):
        return inverse.inverse_fourth_root(matrices, shifts)[0]


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_the_root_is_the_same_to_the_bit_in_every_call(seed) -> None:
    """MindSpore tries out splits among threads in the first calls; see the comment on pow()."""
    ms.set_context(mode=ms.GRAPH_MODE)
    x = normal(seed, 1, 50, 12)
    arguments = Tensor(x.transpose(0, 2, 1) @ x), Tensor([0.01], ms.float32)
    cell = FourthRoot()
    assert len({cell(*arguments).asnumpy().tobytes() for _ in range(30)}) == 1
