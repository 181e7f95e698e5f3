"""Second moments of rows, whole or as diagonal blocks, with float32 accumulation."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, ops

from mindspore_thor.graph.operators import BMM, CAST, CONCAT2, MUL, TRANSPOSE
from mindspore_thor.graph.slices import part_or_all
from mindspore_thor.linalg.blocks import BlockLayout, pad_axis
from mindspore_thor.linalg.device import gram
from mindspore_thor.linalg.sums import SUM

# Operators with transpose flags: an explicit transpose would copy the largest tensors of the step.
_OUTER = ops.BatchMatMul(transpose_b=True)
_INNER = ops.BatchMatMul(transpose_a=True)


def gathers_rows(positions: int, size: int) -> bool:
    """Whether the moments of [N, size, T] are one product over all samples rather than N of them.

    That takes a transpose of the N T size columns; the other way N size^2 products are written and
    added up, which for large layers at small images would fill the memory: 85 MB per sample where
    ResNet-50's widest patches have 4608 entries.

    Args:
        positions: T, columns per sample.
        size: rows of a block of the moments.

    Returns:
        True where the columns have at most half as many entries as those products, chosen so that
        the transposed copy is the smaller of the two; always for a single position.
    """
    return positions == 1 or 2 * positions <= size


def block_moments(columns: Tensor, layout: BlockLayout, count: int = 0) -> Tensor:
    """Diagonal blocks of the mean outer product of column vectors.

    Args:
        columns: [N, groups, d, T]: N*T vectors of length d for every group.
        layout: how d is split; ``layout.dim`` is d.
        count: what the sum is divided by; 0 for NT.

    Returns:
        float32 [groups, blocks, size, size]: blocks of (1/NT) sum_{n,t} c c^T, the ragged one
        padded with zeros.
    """
    # One choice, not a branch and what follows it: half as much for the compiler.
    padded = _padded(columns, layout) if _is_ragged(layout) else columns
    return _of_blocks(padded, layout, count)


def _padded(columns: Tensor, layout: BlockLayout) -> Tensor:
    return pad_axis(columns, 2, layout.padded - layout.dim)


def _of_blocks(columns: Tensor, layout: BlockLayout, count: int) -> Tensor:
    shape = columns.shape
    flat = columns.reshape(_flat(shape, layout))
    gathers = _gathers(shape, layout)
    total = _gathered(flat, shape, layout) if gathers else _summed(flat, shape)
    return MUL(CAST(total.reshape(_moments(shape, layout)), ms.float32), _share(shape, count))


def _gathered(flat: Tensor, shape: tuple[int, ...], layout: BlockLayout) -> Tensor:
    rows = TRANSPOSE(flat, (1, 0, 3, 2)).reshape(_rows(shape, layout))
    return gram(_INNER, rows, _terms(shape, True))


def _summed(flat: Tensor, shape: tuple[int, ...]) -> Tensor:
    return SUM(gram(_OUTER, flat, _terms(shape, False)).reshape(_by_samples(shape)), 0)


# In Python, where tuples and questions cost the compiler nothing.


@ops.constexpr
def _is_ragged(layout: Any) -> bool:
    dim, _, _, padded = layout
    return padded > dim


@ops.constexpr
def _gathers(shape: tuple[int, ...], layout: Any) -> bool:
    return gathers_rows(shape[3], layout[1])


@ops.constexpr
def _flat(shape: tuple[int, ...], layout: Any) -> tuple[int, ...]:
    n, groups, _, positions = shape
    _, size, blocks, _ = layout
    if gathers_rows(positions, size):
        return (n, groups * blocks, size, positions)
    return (n * groups * blocks, size, positions)


@ops.constexpr
def _rows(shape: tuple[int, ...], layout: Any) -> tuple[int, ...]:
    return (shape[1] * layout[2], shape[0] * shape[3], layout[1])


@ops.constexpr
def _by_samples(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[0], -1)


@ops.constexpr
def _terms(shape: tuple[int, ...], gathered: bool) -> int:
    return shape[3] * (shape[0] if gathered else 1)


@ops.constexpr
def _moments(shape: tuple[int, ...], layout: Any) -> tuple[int, ...]:
    return (shape[1], layout[2], layout[1], layout[1])


@ops.constexpr
def _share(shape: tuple[int, ...], count: int) -> float:
    return 1.0 / (count if count else shape[0] * shape[3])


def with_ones(columns: Tensor, ones: Tensor | None = None) -> Tensor:
    """Homogeneous coordinates: a row of ones appended to [N, groups, d, T].

    ``ones`` [N, groups, 1, T] stands in their place where some columns are none, and have a zero.
    """
    n, groups, _, positions = columns.shape
    if ones is None:
        ones = ops.ones((n, groups, 1, positions), columns.dtype)
    return CONCAT2((columns, CAST(ones, columns.dtype)))


def feature_sums(columns: Tensor) -> Tensor:
    """Sum over the features of [N, groups, d, T], as [N, groups, 1, T]."""
    n, groups, d, positions = columns.shape
    # A product with ones: a reduction over a middle axis is several times slower on CPU.
    ones = ops.ones((n * groups, 1, d), columns.dtype)
    sums = BMM(ones, columns.reshape((n * groups, d, positions)))
    return sums.reshape((n, groups, 1, positions))


def weighted_means(columns: Tensor, weights: Tensor) -> Tensor:
    """[groups, d]: (1/N) sum_{n,t} w c for columns [N, groups, d, T], weights [N, groups, 1, T]."""
    n, groups, d, positions = columns.shape
    columns = columns.reshape((n * groups, d, positions))
    products = _OUTER(columns, weights.reshape((n * groups, 1, positions)))
    return MUL(SUM(products.reshape((n, groups * d)), 0).reshape((groups, d)), 1.0 / n)


LARGEST_CHUNK = 2**24
"""Most entries (64 MB of float32) of per-sample matrices that are held at a time."""


def projected_squares(
    a: Tensor, g: Tensor, basis_a: Tensor, basis_g: Tensor, count: int = 0
) -> Tensor:
    """Mean square of per-sample gradients in a Kronecker basis.

    Args:
        a: [N, groups, d_in, T].
        g: [N, groups, d_out, T].
        basis_a: orthonormal columns [groups, d_in, d_in].
        basis_g: orthonormal columns [groups, d_out, d_out].
        count: what the sum is divided by; 0 for N.

    Returns:
        float32 [groups, d_out, d_in]: (1/N) sum_n (Qg^T (sum_t g a^T) Qa)^2, entry by entry.
    """
    if count == 0:
        count = a.shape[0]
    if a.shape[3] == 1:
        return _rank_one_squares(a, g, basis_a, basis_g, count)
    return _summed_squares(a, g, basis_a, basis_g, count)


def _rank_one_squares(a: Tensor, g: Tensor, basis_a: Tensor, basis_g: Tensor, count: int) -> Tensor:
    """One position: a rank-one matrix stays one, and its square is that of its two vectors."""
    n, groups, d_in, _ = a.shape
    rows_a = BMM(TRANSPOSE(a.reshape((n, groups, d_in)), (1, 0, 2)), basis_a)
    rows_g = BMM(TRANSPOSE(g.reshape((n, groups, g.shape[2])), (1, 0, 2)), basis_g)
    return _INNER(rows_g * rows_g, rows_a * rows_a) * (1.0 / count)


# Not in the graph: a call of max() compiles for 50 ms.
@ops.constexpr
def _chunk(samples: int, size: int, largest: int) -> int:
    """How many samples' matrices of that size are at most so large together, at least one."""
    return max(1, min(samples, largest // size))


def _summed_squares(a: Tensor, g: Tensor, basis_a: Tensor, basis_g: Tensor, divisor: int) -> Tensor:
    """Several positions: as many per-sample matrices at a time as fit a chunk."""
    n, groups, d_in, positions = a.shape
    d_out = g.shape[2]
    chunk = _chunk(n, groups * d_in * d_out, LARGEST_CHUNK)
    total = ops.zeros((groups, d_out, d_in), ms.float32)
    for start in range(0, n, chunk):
        count = chunk if start + chunk < n else n - start
        part_a, part_g = part_or_all(a, start, count), part_or_all(g, start, count)
        # Rotate whichever is smaller: the rows before the sum over positions, or the sums.
        if positions * (d_in * d_in + d_out * d_out) < d_in * d_out * (d_in + d_out):
            matrices = _rotated_rows(part_a, part_g, basis_a, basis_g)
        else:
            matrices = _rotated_matrices(part_a, part_g, basis_a, basis_g)
        total = total + SUM(matrices * matrices, 1)
    return total * (1.0 / divisor)


def _rotated_rows(a: Tensor, g: Tensor, basis_a: Tensor, basis_g: Tensor) -> Tensor:
    """Per-sample matrices [groups, n, d_out, d_in] by way of rotated rows."""
    n, groups, d_in, positions = a.shape
    d_out = g.shape[2]
    rows_a = TRANSPOSE(a, (1, 0, 3, 2)).reshape((groups, n * positions, d_in))
    rows_g = TRANSPOSE(g, (1, 0, 3, 2)).reshape((groups, n * positions, d_out))
    rows_a = BMM(rows_a, basis_a).reshape((groups * n, positions, d_in))
    rows_g = BMM(rows_g, basis_g).reshape((groups * n, positions, d_out))
    return _INNER(rows_g, rows_a).reshape((groups, n, d_out, d_in))


def _rotated_matrices(a: Tensor, g: Tensor, basis_a: Tensor, basis_g: Tensor) -> Tensor:
    """The same, rotating the sums over positions."""
    n, groups, d_in, positions = a.shape
    d_out = g.shape[2]
    x = _OUTER(a.reshape((n * groups, d_in, positions)), g.reshape((n * groups, d_out, positions)))
    if groups > 1:
        x = TRANSPOSE(x.reshape((n, groups, d_in, d_out)), (1, 0, 2, 3))
    x = BMM(x.reshape((groups, n * d_in, d_out)), basis_g)
    x = TRANSPOSE(x.reshape((groups, n, d_in, d_out)), (0, 1, 3, 2))
    x = BMM(x.reshape((groups, n * d_out, d_in)), basis_a)
    return x.reshape((groups, n, d_out, d_in))
