"""Block split of square matrices and of gradients (THOR section 3.2, Eq. 10).

A dimension d is split into ceil(d / split) consecutive index blocks; the last one is ragged.
Ragged blocks are stored padded with zeros to the common size, which changes nothing: with damping
the padded diagonal is invertible, and the padded part of the result is sliced away.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from mindspore import Tensor, nn, ops

from mindspore_thor.graph.operators import BMM, CONCAT1, CONCAT2, TRANSPOSE
from mindspore_thor.graph.slices import part_or_all


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
    return TRANSPOSE(x, (0, 1, 3, 2, 4)).reshape((-1, rows.size, cols.size))


def merge_matrix(blocks: Tensor, rows: BlockLayout, cols: BlockLayout) -> Tensor:
    """The inverse of :func:`split_matrix`; what lies in the padding is dropped."""
    x = blocks.reshape((-1, rows.blocks, cols.blocks, rows.size, cols.size))
    x = TRANSPOSE(x, (0, 1, 3, 2, 4)).reshape((-1, rows.padded, cols.padded))
    return part_or_all(part_or_all(x, 0, rows.dim, 1), 0, cols.dim, 2)


class BlockProduct(nn.Cell):
    """The block-diagonal product ``blockdiag(left) @ matrix @ blockdiag(right)`` of n matrices.

    All shapes are computed here: arithmetic on shapes inside a compiled graph costs the compiler
    more than the products do.

    Args:
        count: n.
        rows: split of the matrices' rows.
        cols: split of the matrices' columns.
    """

    def __init__(self, count: int, rows: BlockLayout, cols: BlockLayout) -> None:
        super().__init__(auto_prefix=False)
        n = count
        self.from_left = self.row_product if rows.blocks > 1 else self.whole_left
        self.from_right = self.col_product if cols.blocks > 1 else self.whole_right
        self.left_shape = (n * rows.blocks, rows.size, rows.size)
        self.right_shape = (n * cols.blocks, cols.size, cols.size)
        self.pad_rows = _zeros((n, rows.padded - rows.dim, cols.dim))
        self.pads_rows = rows.padded > rows.dim
        self.row_blocks = (n * rows.blocks, rows.size, cols.dim)
        self.padded_rows = (n, rows.padded, cols.dim)
        self.shape = (n, rows.dim, cols.dim)
        self.pad_cols = _zeros((n, rows.dim, cols.padded - cols.dim))
        self.pads_cols = cols.padded > cols.dim
        self.col_blocks = (n, rows.dim, cols.blocks, cols.size)
        self.col_batch = (n * cols.blocks, rows.dim, cols.size)
        self.col_back = (n, cols.blocks, rows.dim, cols.size)
        self.padded_cols = (n, rows.dim, cols.padded)
        self.slice = ops.Slice()

    def construct(self, left: Tensor, matrix: Tensor, right: Tensor) -> Tensor:
        """Inverses of n * blocks row blocks, [n, rows, cols], inverses of column blocks."""
        x = self.from_left(left.reshape(self.left_shape), matrix)
        return self.from_right(x, right.reshape(self.right_shape))

    # Which two of these is chosen in the constructor, not asked in the graph.

    def whole_left(self, left: Tensor, x: Tensor) -> Tensor:
        """``left @ x`` of one block."""
        return BMM(left, x)

    def row_product(self, left: Tensor, x: Tensor) -> Tensor:
        """``blockdiag(left) @ x``."""
        if self.pads_rows:
            x = CONCAT1((x, self.pad_rows))
        x = BMM(left, x.reshape(self.row_blocks)).reshape(self.padded_rows)
        return self.slice(x, (0, 0, 0), self.shape) if self.pads_rows else x

    def whole_right(self, x: Tensor, right: Tensor) -> Tensor:
        """``x @ right`` of one block."""
        return BMM(x, right)

    def col_product(self, x: Tensor, right: Tensor) -> Tensor:
        """``x @ blockdiag(right)``."""
        if self.pads_cols:
            x = CONCAT2((x, self.pad_cols))
        x = TRANSPOSE(x.reshape(self.col_blocks), (0, 2, 1, 3)).reshape(self.col_batch)
        x = TRANSPOSE(BMM(x, right).reshape(self.col_back), (0, 2, 1, 3)).reshape(self.padded_cols)
        return self.slice(x, (0, 0, 0), self.shape) if self.pads_cols else x


def _zeros(shape: tuple[int, int, int]) -> Tensor:
    return Tensor(np.zeros(shape, np.float32))
