"""Symmetric matrices as triangles, without index tables: only slices, triu and tril.

A symmetric matrix of even dimension 2h is [[P, Q], [Q^T, R]]. Q is kept whole; the upper triangle
of P and the lower one of R fit together into one h x (h + 1) rectangle.
"""

from __future__ import annotations

from mindspore import Tensor, ops

from mindspore_thor.linalg.blocks import pad_axis


def pack_triangles(matrices: Tensor) -> Tensor:
    """Symmetric [n, d, d] -> [n, h, 2h + 1] with h = ceil(d / 2)."""
    d = matrices.shape[-1]
    h = (d + 1) // 2
    x = pad_axis(pad_axis(matrices, 1, 2 * h - d), 2, 2 * h - d)
    column = ops.zeros((x.shape[0], h, 1), x.dtype)
    upper = ops.triu(ops.concat((column, x[:, :h, :h]), 2), 1)
    lower = ops.tril(ops.concat((x[:, h:, h:], column), 2), 0)
    return ops.concat((x[:, :h, h:], upper + lower), 2)


def unpack_triangles(packed: Tensor, d: int) -> Tensor:
    """The inverse of :func:`pack_triangles`: [n, d, d], exactly symmetric."""
    h = packed.shape[1]
    q, both = packed[:, :, :h], packed[:, :, h:]
    upper = ops.triu(both, 1)[:, :, 1:]
    lower = ops.tril(both, 0)[:, :, :h]
    p = upper + ops.tril(upper.transpose((0, 2, 1)), -1)
    r = lower + ops.triu(lower.transpose((0, 2, 1)), 1)
    top = ops.concat((p, q), 2)
    bottom = ops.concat((q.transpose((0, 2, 1)), r), 2)
    return ops.concat((top, bottom), 1)[:, :d, :d]
