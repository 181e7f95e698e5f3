"""The input factor A of a layer by the cheapest way that its geometry allows."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindspore_thor.graph.operators import CAST, CONCAT2, CONCAT3
from mindspore_thor.layers.rows import Rows
from mindspore_thor.linalg.blocks import BlockLayout, block_layout
from mindspore_thor.linalg.conv_moments import ConvMoments
from mindspore_thor.linalg.device import narrow_type
from mindspore_thor.linalg.moments import block_moments, with_ones
from mindspore_thor.linalg.row_plan import row_plan
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
        self.way = _way(rows, homogeneous, layout)

    def construct(self, x: Tensor, ones: Tensor | None = None, count: int = 0) -> Tensor:
        """The layer's input -> float32 [groups, blocks, size, size].

        Where some rows of ``x`` are padding, those are zero, ``ones`` are the columns of what is
        appended to it, and ``count`` is what the sum is divided by.
        """
        return self.way(x, ones, count)


def _way(rows: Rows, homogeneous: bool, layout: BlockLayout) -> nn.Cell:
    geometry = rows.geometry
    # A ragged last block that ends in the appended one is left to the general way.
    if geometry is not None and (not homogeneous or layout.blocks == 1):
        inner = block_layout(rows.d_in, None) if homogeneous else layout
        plan = row_plan(geometry, inner)
        if plan is not None:
            moments = ConvMoments(geometry, inner, plan)
            return _WithMeans(moments, rows) if homogeneous else _Inputs(moments)
    return _WithOnes(rows, layout) if homogeneous else _OfColumns(rows, layout)


class _OfColumns(nn.Cell):
    """By way of the columns themselves."""

    def __init__(self, rows: Rows, layout: BlockLayout) -> None:
        super().__init__(auto_prefix=False)
        self.rows, self.layout = rows, layout

    def construct(self, x: Tensor, ones: Tensor | None, count: int) -> Tensor:
        columns = self.rows.input_columns(CAST(x, narrow_type(ms.float32)))
        return block_moments(columns, self.layout, count)


class _WithOnes(_OfColumns):
    """Likewise, and ones below them."""

    def construct(self, x: Tensor, ones: Tensor | None, count: int) -> Tensor:
        columns = self.rows.input_columns(CAST(x, narrow_type(ms.float32)))
        return block_moments(with_ones(columns, ones), self.layout, count)


class _Inputs(nn.Cell):
    """A convolution's, which has no tokens."""

    def __init__(self, moments: ConvMoments) -> None:
        super().__init__(auto_prefix=False)
        self.moments = moments

    def construct(self, x: Tensor, ones: Tensor | None, count: int) -> Tensor:
        return self.moments(CAST(x, ms.float32))


class _WithMeans(_Inputs):
    """A of [a; 1]: its last row and column are the mean of a."""

    def __init__(self, moments: ConvMoments, rows: Rows) -> None:
        super().__init__(moments)
        self.rows = rows
        self.groups, self.d = rows.groups, rows.d_in
        self.corner = Tensor([[[[1.0]]]] * rows.groups, ms.float32)

    def construct(self, x: Tensor, ones: Tensor | None, count: int) -> Tensor:
        x = CAST(x, ms.float32)
        moments = self.moments(x)
        # Patches are linear in x, so the sum over the batch may come first.
        columns = self.rows.input_columns(SUM_KEPT(x, 0))
        mean = SUM(columns, (0, 3)) * _share(x.shape, columns.shape)
        row = mean.reshape((self.groups, 1, 1, self.d))
        column = CONCAT2((mean.reshape((self.groups, 1, self.d, 1)), self.corner))
        return CONCAT3((CONCAT2((moments, row)), column))


@ops.constexpr
def _share(inputs: tuple[int, ...], columns: tuple[int, ...]) -> float:
    return 1.0 / (inputs[0] * columns[3])
