"""Second moments of convolution patches without building the patches.

For two rows i, j of a kernel with row stride 1 the moment of a patch's rows is a sum over image
rows r of u_r u_{r + j - i}^T, where u_r holds row r unfolded along the width only. But for rows at
the border it depends on j - i alone, so kh products take the place of kh^2, and of kh kw times the
input only kw times is ever written. The border rows are subtracted, which makes the result exact.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindspore_thor.graph.counting import counting
from mindspore_thor.graph.operators import (
    ADD,
    BMM,
    CAST,
    CONCAT3,
    GATHER,
    MATMUL,
    MUL,
    STACK0,
    STACK1,
    STACK2,
    TRANSPOSE,
)
from mindspore_thor.graph.slices import part
from mindspore_thor.linalg.blocks import BlockLayout, pad_axis
from mindspore_thor.linalg.device import half_operand, on_ascend
from mindspore_thor.linalg.patches import ConvGeometry
from mindspore_thor.linalg.row_plan import (
    RowPlan,
    Shape,
    by_sample_shape,
    ends,
    gathers,
    key_of,
    mean_share,
    over_batch_shape,
    row_slices,
    row_weights,
    side,
    span,
    terms_of,
)
from mindspore_thor.linalg.sums import SUM

# Operators and ops.Map, not indexing and loops: the compiler unrolls those into far larger graphs.
# And a cell for each way to do something that is known beforehand, not a question in the graph.
_OUTER = ops.BatchMatMul(transpose_b=True)
_INNER = ops.BatchMatMul(transpose_a=True)
_SLICE, _STRIDED = ops.Slice(), ops.StridedSlice()
_ZEROS, _MAP = ops.Zeros(), ops.Map()


class ConvMoments(nn.Cell):
    """Diagonal blocks of the mean outer product of a convolution's patches.

    Args:
        geometry: the convolution's constants.
        layout: split of the patch entries of one group.
        plan: from :func:`~mindspore_thor.linalg.row_plan.row_plan`.
    """

    def __init__(self, geometry: ConvGeometry, layout: BlockLayout, plan: RowPlan) -> None:
        super().__init__(auto_prefix=False)
        kh, kw = geometry.kernel
        _, _, left, right = plan.padding
        self.key = key = key_of(geometry, layout, plan)
        self.prepare: nn.Cell = _Padded(left, right) if left and right else nn.Identity()
        if bool(left) != bool(right):
            self.prepare = _PaddedOnce(left, right)
        if not plan.whole:
            self.prepare = _Picked(plan.channels, self.prepare)
        starts = tuple(range(0, key[2] + 1, geometry.dilation[1]))
        self.taps = _Taps(key, starts) if geometry.stride[1] == 1 else _StridedTaps(key, starts)
        self.halves = (kh, kh, key[0], plan.width, kw, plan.width, kw)
        self.square = (key[0], key[1] * kh, key[1] * kh)
        self.cut: nn.Cell = _Whole(geometry.groups, layout)
        if plan.once and layout.blocks > 1:
            self.cut = _Diagonal(geometry.groups, layout)
        elif not plan.whole:
            self.cut = _Touched(geometry.groups, layout, plan)

    def construct(self, x: Tensor) -> Tensor:
        """The layer's input [N, C, H, W], float32 -> float32 [groups, blocks, size, size]."""
        x = self.prepare(x)
        shape = x.shape
        columns = STACK2(self.taps(x, shape))
        key = self.key
        # A choice, not a branch and what follows it: half as much for the compiler.
        once = gathers(shape, key)
        products = _over_batch(columns, shape, key) if once else _by_sample(columns, shape, key)
        half = MATMUL(row_weights(shape, key), products).reshape(self.halves)
        half = TRANSPOSE(half, (2, 3, 0, 4, 5, 1, 6)).reshape(self.square)
        whole = ADD(half, TRANSPOSE(half, (0, 2, 1)))
        return self.cut(MUL(whole, mean_share(shape, key)))


class _Padded(nn.Cell):
    """Zeros at the left and at the right."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__(auto_prefix=False)
        self.left, self.right = left, right

    def construct(self, x: Tensor) -> Tensor:
        before = _ZEROS(side(x.shape, self.left), x.dtype)
        return CONCAT3((before, x, _ZEROS(side(x.shape, self.right), x.dtype)))


class _PaddedOnce(_Padded):
    """Zeros at one side."""

    def construct(self, x: Tensor) -> Tensor:
        zeros = _ZEROS(side(x.shape, self.left + self.right), x.dtype)
        return CONCAT3((zeros, x)) if self.left > 0 else CONCAT3((x, zeros))


class _Picked(nn.Cell):
    """The channels that the blocks touch."""

    def __init__(self, channels: tuple[int, ...], then: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.channels, self.then = Tensor(channels, ms.int32), then

    def construct(self, x: Tensor) -> Tensor:
        return self.then(GATHER(x, self.channels, 1))


class _Taps(nn.Cell):
    """The input as every column of the kernel sees it, each [N, C, H, W']."""

    def __init__(self, key: tuple[int, ...], starts: tuple[int, ...]) -> None:
        super().__init__(auto_prefix=False)
        self.key = key
        self.begins = tuple((0, 0, 0, start) for start in starts)

    def construct(self, x: Tensor, shape: Shape) -> Any:
        return _MAP(ops.partial(_tap, x, span(shape, self.key)), self.begins)


class _StridedTaps(_Taps):
    """The same, every so many columns."""

    def construct(self, x: Tensor, shape: Shape) -> Any:
        strides = (1, 1, 1, self.key[3])
        last = ends(shape, self.key, self.begins)
        return _MAP(ops.partial(_strided_tap, x, strides), self.begins, last)


def _tap(x: Tensor, size: Shape, begin: Shape) -> Tensor:
    return _SLICE(x, begin, size)


def _strided_tap(x: Tensor, strides: Shape, begin: Shape, end: Shape) -> Tensor:
    return _STRIDED(x, begin, end, strides)


def _by_sample(columns: Tensor, shape: Shape, key: Any) -> Tensor:
    """The sums over samples of all ranges, [ranges, batch * size * size], one product for each."""
    columns = columns.reshape(by_sample_shape(shape, key))
    make = _halved_by_sample if on_ascend() else _sums_by_sample
    return make(columns, shape, key)


def _halved_by_sample(columns: Tensor, shape: Shape, key: Any) -> Tensor:
    # The scale of an operand is found once for all products.
    columns, unscale = half_operand(columns, terms_of(shape, key, 1))
    return MUL(_sums_by_sample(columns, shape, key), MUL(unscale, unscale))


def _sums_by_sample(columns: Tensor, shape: Shape, key: Any) -> Tensor:
    flat = (shape[0], -1)
    complete = SUM(CAST(_OUTER(columns, columns), ms.float32).reshape(flat), 0)
    slices = row_slices(shape, key, columns.shape, 2)
    others = _MAP(ops.partial(_sum_by_sample, columns, flat), *slices)
    return STACK0((complete,) + others)  # noqa: RUF005 (the graph parser)


def _sum_by_sample(columns: Tensor, flat: Any, begin: Any, size: Any, other: Any) -> Tensor:
    """Sum over samples and a range of image rows of u_r u_{r + shift}^T."""
    products = _OUTER(_SLICE(columns, begin, size), _SLICE(columns, other, size))
    return SUM(CAST(products, ms.float32).reshape(flat), 0)


def _over_batch(columns: Tensor, shape: Shape, key: Any) -> Tensor:
    """The same from rows [batch, N, length, size], in one product over all samples."""
    rows = TRANSPOSE(columns.reshape(over_batch_shape(shape, key)), (1, 0, 3, 2))
    make = _halved_over_batch if on_ascend() else _sums_over_batch
    return make(rows, shape, key)


def _halved_over_batch(rows: Tensor, shape: Shape, key: Any) -> Tensor:
    rows, unscale = half_operand(rows, terms_of(shape, key, shape[0]))
    return MUL(_sums_over_batch(rows, shape, key), MUL(unscale, unscale))


def _sums_over_batch(rows: Tensor, shape: Shape, key: Any) -> Tensor:
    flat = (key[0], -1, key[1])
    every = rows.reshape(flat)
    complete = CAST(_INNER(every, every), ms.float32).reshape((-1,))
    slices = row_slices(shape, key, rows.shape, 2)
    others = _MAP(ops.partial(_sum_over_batch, rows, flat), *slices)
    return STACK0((complete,) + others)  # noqa: RUF005 (the graph parser)


def _sum_over_batch(rows: Tensor, flat: Any, begin: Any, size: Any, other: Any) -> Tensor:
    left, right = _SLICE(rows, begin, size).reshape(flat), _SLICE(rows, other, size).reshape(flat)
    return CAST(_INNER(left, right), ms.float32).reshape((-1,))


class _Whole(nn.Cell):
    """Matrices that are the blocks."""

    def __init__(self, groups: int, layout: BlockLayout) -> None:
        super().__init__(auto_prefix=False)
        self.layout, self.groups = layout, groups
        self.shape = (groups, layout.blocks, layout.size, layout.size)

    def construct(self, blocks: Tensor) -> Tensor:
        return blocks.reshape(self.shape)


class _Diagonal(_Whole):
    """The diagonal blocks of [groups, dim, dim], the last one padded with zeros."""

    def construct(self, blocks: Tensor) -> Tensor:
        layout = self.layout
        padding = layout.padded - layout.dim
        whole = pad_axis(pad_axis(blocks, 1, padding), 2, padding)
        starts = tuple(range(0, layout.padded, layout.size))
        return STACK1(_MAP(ops.partial(_block, whole, layout.size), starts))


def _block(whole: Tensor, size: int, start: int) -> Tensor:
    return part(part(whole, start, size, 1), start, size, 2)


class _Touched(_Whole):
    """The entries of every block, out of those of the channels that it touches."""

    def __init__(self, groups: int, layout: BlockLayout, plan: RowPlan) -> None:
        super().__init__(groups, layout)
        self.offsets = plan.offsets

    def construct(self, blocks: Tensor) -> Tensor:
        layout = self.layout
        size = blocks.shape[-1]
        offsets = Tensor(self.offsets, ms.int32).reshape((-1, 1, 1))
        entry = counting(0, layout.size).reshape((1, -1, 1))
        number = counting(0, layout.blocks).reshape((-1, 1, 1))
        chosen = counting(0, size).reshape((1, 1, -1)) == entry + offsets
        real = number * layout.size + entry < layout.dim
        picker = ops.logical_and(chosen, real).astype(ms.float32)
        picker = ops.tile(picker, (self.groups, 1, 1))
        return _OUTER(BMM(picker, blocks), picker).reshape(self.shape)
