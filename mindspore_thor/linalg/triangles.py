"""Symmetric matrices as triangles, without index tables: only slices, triu and tril.

A symmetric matrix of even dimension 2h is [[P, Q], [Q^T, R]]. Q is kept whole; the upper triangle
of P and the lower one of R fit together into one h x (h + 1) rectangle.
"""

from __future__ import annotations

from mindspore import Tensor, ops

from mindspore_thor.graph.operators import TRANSPOSE
from mindspore_thor.graph.slices import part_or_all
from mindspore_thor.linalg.blocks import pad_axis


def _quarter(x: Tensor, row: int, column: int, h: int) -> Tensor:
    """The h x h part of [n, 2h, 2h] that begins at that row and column."""
    return part_or_all(part_or_all(x, row, h, 1), column, h, 2)


def pack_triangles(matrices: Tensor) -> Tensor:
    """Symmetric [n, d, d] -> [n, h, 2h + 1] with h = ceil(d / 2)."""
    d = matrices.shape[-1]
    h = (d + 1) // 2
    x = pad_axis(pad_axis(matrices, 1, 2 * h - d), 2, 2 * h - d)
    column = ops.zeros((x.shape[0], h, 1), x.dtype)
    upper = ops.triu(ops.concat((column, _quarter(x, 0, 0, h)), 2), 1)
    lower = ops.tril(ops.concat((_quarter(x, h, h, h), column), 2), 0)
    return ops.concat((_quarter(x, 0, h, h), upper + lower), 2)


def unpack_triangles(packed: Tensor, d: int) -> Tensor:
    """The inverse of :func:`pack_triangles`: [n, d, d], exactly symmetric."""
    h = packed.shape[1]
    q, both = part_or_all(packed, 0, h, 2), part_or_all(packed, h, h + 1, 2)
    upper = part_or_all(ops.triu(both, 1), 1, h, 2)
    lower = part_or_all(ops.tril(both, 0), 0, h, 2)
    p = upper + ops.tril(TRANSPOSE(upper, (0, 2, 1)), -1)
    r = lower + ops.triu(TRANSPOSE(lower, (0, 2, 1)), 1)
    top = ops.concat((p, q), 2)
    bottom = ops.concat((TRANSPOSE(q, (0, 2, 1)), r), 2)
    return part_or_all(part_or_all(ops.concat((top, bottom), 1), 0, d, 1), 0, d, 2)
