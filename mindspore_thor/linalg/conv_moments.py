"""Second moments of convolution patches without building the patches.

For two rows i, j of a kernel with row stride 1 the moment of a patch's rows is a sum over image
rows r of u_r u_{r + j - i}^T, where u_r holds row r unfolded along the width only. But for rows at
the border it depends on j - i alone, so kh products take the place of kh^2, and of kh kw times the
input only kw times is ever written. The border rows are subtracted, which makes the result exact.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from mindspore_thor.graph.counting import counting
from mindspore_thor.graph.slices import every, part, part_or_all
from mindspore_thor.linalg.blocks import BlockLayout, pad_axis
from mindspore_thor.linalg.device import operand, rescaled, wide
from mindspore_thor.linalg.moments import gathers_rows
from mindspore_thor.linalg.patches import ConvGeometry, resolve_padding
from mindspore_thor.linalg.sums import SUM

# Operators and ops.Map, not indexing and loops: the compiler unrolls those into far larger graphs.
_OUTER = ops.BatchMatMul(transpose_b=True)
_INNER = ops.BatchMatMul(transpose_a=True)
_MAP = ops.Map()


class RowPlan(NamedTuple):
    """Which input channels every block needs.

    Block b covers the patch entries from ``offsets[b]`` of its ``width`` channels on; ``channels``
    lists those of all blocks, of all groups. ``whole`` says that blocks and channels coincide,
    ``once`` that one matrix over all channels of a group is computed, and the blocks cut out of it.
    """

    width: int
    channels: tuple[int, ...]
    offsets: tuple[int, ...]
    whole: bool
    once: bool


_GATHERING = 1.5
"""What blocks that share channels cost beside their products: the channels are copied first."""


def row_plan(geometry: ConvGeometry, layout: BlockLayout) -> RowPlan | None:
    """The plan for a layer, or None where patches are cheaper or the trick does not apply.

    Args:
        geometry: the convolution's constants.
        layout: split of the patch entries (channel, kh, kw) of one group.
    """
    kh, kw = geometry.kernel
    taps = kh * kw
    if kh == 1 or geometry.stride[0] != 1 or layout.size < taps:
        return None
    count = layout.dim // taps
    starts = [block * layout.size // taps for block in range(layout.blocks)]
    ends = [
        -(-min((block + 1) * layout.size, layout.dim) // taps) for block in range(layout.blocks)
    ]
    width = max(end - start for start, end in zip(starts, ends))
    # Few blocks that end within channels, the last one short: the whole is less work than they are.
    aligned = layout.size % taps == 0
    once = not aligned and count**2 <= _GATHERING * layout.blocks * width**2
    if once and kh * (count * kw) ** 2 < layout.blocks * layout.size**2:
        return RowPlan(count, (), (0,), True, True)
    if kh * (width * kw) ** 2 >= layout.size**2:
        return None
    offsets = tuple(block * layout.size - start * taps for block, start in enumerate(starts))
    channels = tuple(
        # Behind the last channel any will do: what it brings is masked away.
        group * count + min(start + k, count - 1)
        for group in range(geometry.groups)
        for start in starts
        for k in range(width)
    )
    whole = not any(offsets) and layout.padded == layout.dim and width * taps == layout.size
    return RowPlan(width, channels, offsets, whole, False)


def conv_moments(x: Tensor, geometry: ConvGeometry, layout: BlockLayout, plan: RowPlan) -> Tensor:
    """Diagonal blocks of the mean outer product of a convolution's patches.

    Args:
        x: float32 feature map, [N, C, H, W].
        geometry: the convolution's constants.
        layout: split of the patch entries of one group.
        plan: from :func:`row_plan`.

    Returns:
        float32 [groups, blocks, size, size]: what ``block_moments(unfold(x, geometry), layout)``
        returns.
    """
    if not plan.whole:
        x = ops.gather(x, Tensor(plan.channels, ms.int32), 1)
    n, _, height, width = x.shape
    top, bottom, left, right = resolve_padding(geometry, height, width)
    kh, kw = geometry.kernel
    out_height = height + top + bottom - geometry.dilation[0] * (kh - 1)
    batch = geometry.groups if plan.once else geometry.groups * layout.blocks
    columns = _width_taps(x, geometry, left, right)
    out_width = columns.shape[-1]
    columns = columns.reshape((n, batch, plan.width * kw, height * out_width))
    ranges = _row_ranges(geometry, height, out_height, top)
    products = _lagged_products(columns, out_width, ranges)
    weights = _row_weights(geometry, height, out_height, top)
    half = ops.matmul(weights, products).reshape((kh, kh, batch, plan.width, kw, plan.width, kw))
    half = ops.transpose(half, (2, 3, 0, 4, 5, 1, 6))
    size = plan.width * kh * kw
    half = half.reshape((batch, size, size))
    blocks = (half + ops.transpose(half, (0, 2, 1))) * (1.0 / (n * out_height * out_width))
    if plan.once:
        blocks = _diagonal(blocks, layout)
    elif not plan.whole:
        blocks = _cut(blocks, plan, layout, geometry.groups)
    return blocks.reshape((geometry.groups, layout.blocks, layout.size, layout.size))


def _width_taps(x: Tensor, geometry: ConvGeometry, left: int, right: int) -> Tensor:
    """``x`` shifted to every column of the kernel, [N, C, H, W] -> [N, C, kw, H, W']."""
    n, channels, height, width = x.shape
    if left > 0:
        x = ops.concat((ops.zeros((n, channels, height, left), x.dtype), x), 3)
    if right > 0:
        x = ops.concat((x, ops.zeros((n, channels, height, right), x.dtype)), 3)
    kw, stride, dilation = geometry.kernel[1], geometry.stride[1], geometry.dilation[1]
    span = width + left + right - dilation * (kw - 1)
    starts = tuple(range(0, dilation * kw, dilation))
    return ops.stack(_MAP(ops.partial(_tap, x, span, stride), starts), 2)


def _tap(x: Tensor, span: int, stride: int, start: int) -> Tensor:
    return every(part_or_all(x, start, span, 3), stride, 3)


def _row_pairs(
    geometry: ConvGeometry, height: int, out_height: int, top: int
) -> list[list[tuple[int, int, tuple[int, int, int], float]]]:
    """For kernel rows j >= i: (i, j, image rows (first, count, shift), sign) of what adds up."""
    kh, dilation = geometry.kernel[0], geometry.dilation[0]
    found = []
    for i in range(kh):
        for j in range(i, kh):
            shift = dilation * (j - i)
            rows = max(height - shift, 0)
            # Kernel row i sees image rows first .. last - 1; row j sees those shift further down.
            first = min(max(dilation * i - top, 0), rows)
            last = max(min(dilation * i - top + out_height, rows), first)
            terms = [(0, rows, 1.0), (0, first, -1.0), (last, rows - last, -1.0)]
            found.append([(i, j, (start, n, shift), sign) for start, n, sign in terms if n > 0])
    return found


def _ranges(geometry: ConvGeometry, height: int, out_height: int, top: int) -> list[Any]:
    pairs = _row_pairs(geometry, height, out_height, top)
    # Complete products are shared by all pairs of the same lag; so are equal border rows.
    return list(dict.fromkeys(rows for terms in pairs for _, _, rows, _ in terms))


@ops.constexpr
def _row_ranges(geometry: ConvGeometry, height: int, out_height: int, top: int) -> Any:
    """Every range of image rows whose product is needed: firsts, counts, shifts."""
    return tuple(zip(*_ranges(ConvGeometry(*geometry), height, out_height, top)))


@ops.constexpr
def _row_weights(geometry: ConvGeometry, height: int, out_height: int, top: int) -> Tensor:
    """float32 [kh * kh, ranges]: the weights of the products in the pairs' upper half.

    The lower half is its transpose; half of the diagonal counts, because it is added twice.
    """
    geometry = ConvGeometry(*geometry)
    ranges = _ranges(geometry, height, out_height, top)
    kh = geometry.kernel[0]
    weights = np.zeros((kh * kh, len(ranges)), np.float32)
    for terms in _row_pairs(geometry, height, out_height, top):
        for i, j, rows, sign in terms:
            weights[i * kh + j, ranges.index(rows)] += sign * (0.5 if i == j else 1.0)
    return Tensor(weights)


def _lagged_products(columns: Tensor, width: int, ranges: Any) -> Tensor:
    """The sums over samples of all ranges, [ranges, batch * size * size].

    Args:
        columns: [N, batch, size, length].
        width: entries of one image row.
        ranges: firsts, counts and shifts.
    """
    n, batch, size, length = columns.shape
    # The scale of an operand is found once for all products.
    if gathers_rows(length, size):
        rows = ops.transpose(columns, (1, 0, 3, 2))
        rows, unscale = operand(rows, n * length)
        found = ops.stack(_MAP(ops.partial(_over_batch, rows, width), *ranges))
        return rescaled(found, unscale, unscale)
    columns, unscale = operand(columns.reshape((n * batch, size, length)), length)
    found = ops.stack(_MAP(ops.partial(_by_sample, columns, n, width), *ranges))
    return rescaled(found, unscale, unscale)


def _by_sample(columns: Tensor, n: int, width: int, first: int, count: int, shift: int) -> Tensor:
    """Sum over samples and image rows first .. first + count - 1 of u_r u_{r + shift}^T, flat."""
    left = part_or_all(columns, first * width, count * width, 2)
    right = left
    if shift > 0:
        right = part(columns, (first + shift) * width, count * width, 2)
    return SUM(wide(_OUTER(left, right)).reshape((n, -1)), 0)


def _over_batch(rows: Tensor, width: int, first: int, count: int, shift: int) -> Tensor:
    """The same from rows [batch, N, length, size], in one product over all samples."""
    batch, size = rows.shape[0], rows.shape[3]
    left = part_or_all(rows, first * width, count * width, 2).reshape((batch, -1, size))
    right = left
    if shift > 0:
        right = part(rows, (first + shift) * width, count * width, 2).reshape((batch, -1, size))
    return wide(_INNER(left, right)).reshape((-1,))


def _diagonal(whole: Tensor, layout: BlockLayout) -> Tensor:
    """The diagonal blocks of [groups, dim, dim], the last one padded with zeros."""
    if layout.blocks == 1:
        return whole
    padding = layout.padded - layout.dim
    whole = pad_axis(pad_axis(whole, 1, padding), 2, padding)
    starts = tuple(range(0, layout.padded, layout.size))
    return ops.stack(_MAP(ops.partial(_block, whole, layout.size), starts), 1)


def _block(whole: Tensor, size: int, start: int) -> Tensor:
    return part(part(whole, start, size, 1), start, size, 2)


def _cut(blocks: Tensor, plan: RowPlan, layout: BlockLayout, groups: int) -> Tensor:
    """The entries of every block, out of those of the channels that it touches."""
    size = blocks.shape[-1]
    offsets = Tensor(plan.offsets, ms.int32).reshape((-1, 1, 1))
    entry = counting(0, layout.size).reshape((1, -1, 1))
    number = counting(0, layout.blocks).reshape((-1, 1, 1))
    chosen = counting(0, size).reshape((1, 1, -1)) == entry + offsets
    real = number * layout.size + entry < layout.dim
    picker = ops.logical_and(chosen, real).astype(ms.float32)
    picker = ops.tile(picker, (groups, 1, 1))
    return _OUTER(ops.bmm(picker, blocks), picker)
