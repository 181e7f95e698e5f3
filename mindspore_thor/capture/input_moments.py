"""The input factor A of a layer by the cheapest way that its geometry allows."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindspore_thor.layers.rows import Rows
from mindspore_thor.linalg.blocks import BlockLayout, block_layout
from mindspore_thor.linalg.conv_moments import conv_moments, row_plan
from mindspore_thor.linalg.device import narrow
from mindspore_thor.linalg.moments import block_moments, with_ones
from mindspore_thor.linalg.sums import SUM, SUM_KEPT


class InputMoments(nn.Cell):
    """Diagonal blocks of A = mean of a a^T over samples and positions.

    Args:
        rows: the layer's geometry.
        homogeneous: whether a one is appended to a, so that A covers the bias.
        layout: split of a, the appended one included.
    """

    def __init__(self, rows: Rows, homogeneous: bool, layout: BlockLayout) -> None:
        super().__init__(auto_prefix=False)
        self.rows = rows
        self.homogeneous = homogeneous
        self.layout = layout
        self.geometry: Any = rows.geometry
        self.inner = block_layout(rows.d_in, None) if homogeneous else layout
        self.plan: Any = None
        # A ragged last block that ends in the appended one is left to the general way.
        if self.geometry is not None and (not homogeneous or layout.blocks == 1):
            self.plan = row_plan(self.geometry, self.inner)
        self.by_rows = self.plan is not None

    def construct(self, x: Tensor, ones: Tensor | None = None, count: int = 0) -> Tensor:
        """The layer's input -> float32 [groups, blocks, size, size].

        Where some rows of ``x`` are padding, those are zero, ``ones`` are the columns of what is
        appended to it, and ``count`` is what the sum is divided by.
        """
        x = ops.cast(x, ms.float32)
        if self.by_rows:
            moments = conv_moments(x, self.geometry, self.inner, self.plan)
            if self.homogeneous:
                moments = self.with_means(moments, x)
        else:
            columns = self.rows.input_columns(narrow(x))
            if self.homogeneous:
                columns = with_ones(columns, ones)
            moments = block_moments(columns, self.layout, count)
        return moments

    def with_means(self, moments: Tensor, x: Tensor) -> Tensor:
        """A of [a; 1]: its last row and column are the mean of a."""
        # Patches are linear in x, so the sum over the batch may come first.
        columns = self.rows.input_columns(SUM_KEPT(x, 0))
        groups, d = self.rows.groups, self.rows.d_in
        mean = SUM(columns, (0, 3)) * (1.0 / (x.shape[0] * columns.shape[3]))
        mean = mean.reshape((groups, 1, d, 1))
        right = ops.concat((mean, ops.ones((groups, 1, 1, 1), ms.float32)), 2)
        moments = ops.concat((moments, mean.reshape((groups, 1, 1, d))), 2)
        return ops.concat((moments, right), 3)
