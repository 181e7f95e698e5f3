"""Second moments of rows, whole or as diagonal blocks, with float32 accumulation."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

from mindspore_thor.linalg.blocks import BlockLayout, pad_axis

# Operators with transpose flags: an explicit transpose would copy the largest tensors of the step.
_OUTER = ops.BatchMatMul(transpose_b=True)
_INNER = ops.BatchMatMul(transpose_a=True)


def block_moments(columns: Tensor, layout: BlockLayout) -> Tensor:
    """Diagonal blocks of the mean outer product of column vectors.

    Args:
        columns: [N, groups, d, T]: N*T vectors of length d for every group.
        layout: how d is split; ``layout.dim`` is d.

    Returns:
        float32 [groups, blocks, size, size]: blocks of (1/NT) sum_{n,t} c c^T, the ragged one
        padded with zeros.
    """
    n, groups, _, positions = columns.shape
    if layout.blocks > 1:
        columns = pad_axis(columns, 2, layout.padded - layout.dim)
    batch = groups * layout.blocks
    if positions == 1:
        # One position a sample: a single product over the samples instead of N rank-one ones.
        rows = columns.reshape((n, batch, layout.size)).transpose((1, 0, 2))
        total = _INNER(rows, rows)
    else:
        columns = columns.reshape((n * batch, layout.size, positions))
        products = _OUTER(columns, columns)
        total = products.reshape((n, batch * layout.size * layout.size)).sum(0)
    total = total.reshape((groups, layout.blocks, layout.size, layout.size))
    return ops.cast(total, ms.float32) * (1.0 / (n * positions))


def with_ones(columns: Tensor) -> Tensor:
    """Homogeneous coordinates: a row of ones appended to [N, groups, d, T]."""
    n, groups, _, positions = columns.shape
    return ops.concat((columns, ops.ones((n, groups, 1, positions), columns.dtype)), 2)
