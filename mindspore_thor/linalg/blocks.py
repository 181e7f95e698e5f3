"""Block split of square matrices and of gradients (THOR section 3.2, Eq. 10).

A dimension d is split into ceil(d / split) consecutive index blocks; the last one is ragged.
Ragged blocks are stored padded with zeros to the common size, which changes nothing: with damping
the padded diagonal is invertible, and the padded part of the result is sliced away.
"""

from __future__ import annotations

from typing import NamedTuple

from mindspore import Tensor, ops

from mindspore_thor.linalg.slices import part


class BlockLayout(NamedTuple):
    """How one dimension is split.

    ``blocks`` blocks of ``size`` cover ``padded`` = blocks * size indices; ``dim`` are real.
    ``padded`` is a field because the graph parser keeps a named tuple's fields only.
    """

    dim: int
    size: int
    blocks: int
    padded: int


def block_layout(dim: int, split_dim: int | None) -> BlockLayout:
    """The layout of a dimension: one block where ``split_dim`` is None or at least ``dim``."""
    if split_dim is None or dim <= split_dim:
        return BlockLayout(dim, dim, 1, dim)
    count = -(-dim // split_dim)
    return BlockLayout(dim, split_dim, count, count * split_dim)


def pad_axis(x: Tensor, axis: int, amount: int) -> Tensor:
    """``x`` with ``amount`` zeros appended along ``axis``."""
    if amount == 0:
        return x
    shape = list(x.shape)
    shape[axis] = amount
    return ops.concat((x, ops.zeros(tuple(shape), x.dtype)), axis)


def split_matrix(matrix: Tensor, rows: BlockLayout, cols: BlockLayout) -> Tensor:
    """All blocks of a matrix, ragged ones padded with zeros.

    Args:
        matrix: [groups, rows.dim, cols.dim].
        rows: split of the matrix's rows.
        cols: split of the matrix's columns.

    Returns:
        [groups * rows.blocks * cols.blocks, rows.size, cols.size].
    """
    groups = matrix.shape[0]
    x = pad_axis(pad_axis(matrix, 1, rows.padded - rows.dim), 2, cols.padded - cols.dim)
    x = x.reshape((groups, rows.blocks, rows.size, cols.blocks, cols.size))
    return x.transpose((0, 1, 3, 2, 4)).reshape((-1, rows.size, cols.size))


def merge_matrix(blocks: Tensor, rows: BlockLayout, cols: BlockLayout) -> Tensor:
    """The inverse of :func:`split_matrix`; what lies in the padding is dropped."""
    x = blocks.reshape((-1, rows.blocks, cols.blocks, rows.size, cols.size))
    x = x.transpose((0, 1, 3, 2, 4)).reshape((-1, rows.padded, cols.padded))
    return part(part(x, 0, rows.dim, 1), 0, cols.dim, 2)


def apply_blocks(
    left: Tensor, matrix: Tensor, right: Tensor, rows: BlockLayout, cols: BlockLayout
) -> Tensor:
    """The block-diagonal product ``blockdiag(left) @ matrix @ blockdiag(right)``.

    Args:
        left: [groups, rows.blocks, rows.size, rows.size].
        matrix: [groups, rows.dim, cols.dim].
        right: [groups, cols.blocks, cols.size, cols.size].
        rows: split of the matrix's rows.
        cols: split of the matrix's columns.

    Returns:
        [groups, rows.dim, cols.dim].
    """
    groups = matrix.shape[0]
    x = matrix
    if rows.blocks == 1:
        x = ops.bmm(left.reshape((groups, rows.size, rows.size)), x)
    else:
        x = pad_axis(x, 1, rows.padded - rows.dim)
        x = x.reshape((groups * rows.blocks, rows.size, cols.dim))
        x = ops.bmm(left.reshape((groups * rows.blocks, rows.size, rows.size)), x)
        x = part(x.reshape((groups, rows.padded, cols.dim)), 0, rows.dim, 1)
    if cols.blocks == 1:
        return ops.bmm(x, right.reshape((groups, cols.size, cols.size)))
    x = pad_axis(x, 2, cols.padded - cols.dim)
    x = x.reshape((groups, rows.dim, cols.blocks, cols.size)).transpose((0, 2, 1, 3))
    x = x.reshape((groups * cols.blocks, rows.dim, cols.size))
    x = ops.bmm(x, right.reshape((groups * cols.blocks, cols.size, cols.size)))
    x = x.reshape((groups, cols.blocks, rows.dim, cols.size)).transpose((0, 2, 1, 3))
    return part(x.reshape((groups, rows.dim, cols.padded)), 0, cols.dim, 2)
