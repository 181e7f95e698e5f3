"""What the rules that make a layer's statistics in its backward pass have in common."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindspore_thor.layers.rows import Rows
from mindspore_thor.linalg.moments import with_ones


class StatisticsRule(nn.Cell):
    """Base of the rules (x, out, dout, state) -> one float32 vector of statistics.

    The vector ends with META: (1, T, N), the positions and samples that it is a mean over.

    Args:
        rows: the layer's geometry.
        homogeneous: whether a one is appended to a, so that the statistics cover the bias.
    """

    def __init__(self, rows: Rows, homogeneous: bool) -> None:
        super().__init__()
        self.rows = rows
        self.homogeneous = homogeneous

    def inputs(self, x: Tensor) -> Tensor:
        """The columns of a, float32, with their one where the bias is covered."""
        a = self.rows.input_columns(ops.cast(x, ms.float32))
        if self.homogeneous:
            a = with_ones(a)
        return a

    def meta(self, x: Tensor, dout: Tensor) -> Tensor:
        """META, float32 [3]."""
        return Tensor([1.0, self.rows.positions(dout), self.rows.samples(x)], ms.float32)
