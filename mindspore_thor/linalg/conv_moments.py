"""Second moments of convolution patches without building the patches.

For two rows i, j of a kernel with row stride 1 the moment of a patch's rows is a sum over image
rows r of u_r u_{r + j - i}^T, where u_r holds row r unfolded along the width only. But for rows at
the border it depends on j - i alone, so kh products take the place of kh^2, and of kh kw times the
input only kw times is ever written. The border rows are subtracted, which makes the result exact.
"""

from __future__ import annotations

from typing import NamedTuple

import mindspore as ms
from mindspore import Tensor, ops

from mindspore_thor.linalg.blocks import BlockLayout
from mindspore_thor.linalg.patches import ConvGeometry, resolve_padding

_OUTER = ops.BatchMatMul(transpose_b=True)


class RowPlan(NamedTuple):
    """Which input channels every block needs.

    Block b covers the patch entries from ``offsets[b]`` of its ``width`` channels on; ``channels``
    lists those of all blocks, of all groups. ``whole`` says that blocks and channels coincide.
    """

    width: int
    channels: tuple[int, ...]
    offsets: tuple[int, ...]
    whole: bool


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
    return RowPlan(width, channels, offsets, whole)


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
    padding = resolve_padding(geometry, height, width)
    kh, kw = geometry.kernel
    reach = geometry.dilation[0] * (kh - 1)
    out_height = height + padding[0] + padding[1] - reach
    batch = geometry.groups * layout.blocks
    columns = _width_taps(x, geometry, padding[2], padding[3])
    out_width = columns.shape[-1]
    size = plan.width * kw
    columns = columns.reshape((n * batch, size, height * out_width))
    products = _row_products(columns, n, geometry, height, out_height, padding[0])
    grid = products.reshape((kh, kh, batch, plan.width, kw, plan.width, kw))
    size = plan.width * kh * kw
    blocks = grid.transpose((2, 3, 0, 4, 5, 1, 6)).reshape((batch, size, size))
    if not plan.whole:
        blocks = _cut(blocks, plan, layout, geometry.groups)
    blocks = blocks * (1.0 / (n * out_height * out_width))
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
    taps: tuple[Tensor, ...] = ()
    for k in range(kw):
        taps += (x[:, :, :, k * dilation : k * dilation + span : stride],)
    return ops.stack(taps, 2)


def _row_products(
    columns: Tensor, n: int, geometry: ConvGeometry, height: int, out_height: int, top: int
) -> Tensor:
    """Sums over samples and positions for every pair of kernel rows.

    Args:
        columns: [N * blocks, size, H * W'].
        n: number of samples N.
        geometry: the convolution's constants.
        height: H.
        out_height: H', rows of the output.
        top: zero rows above the image.

    Returns:
        [kh * kh, blocks * size * size].
    """
    kh, dilation = geometry.kernel[0], geometry.dilation[0]
    complete: tuple[Tensor, ...] = ()
    for lag in range(kh):
        shift = dilation * lag
        complete += (_lagged(columns, n, height, 0, height - shift, shift),)
    # above[i][j - i] for j >= i; the rest is its transpose.
    above: tuple[Tensor, ...] = ()
    for i in range(kh):
        for lag in range(kh - i):
            shift = dilation * lag
            rows = max(height - shift, 0)
            # Kernel row i sees image rows first .. last - 1, and so does row i + lag further down.
            first = min(max(dilation * i - top, 0), rows)
            last = max(min(dilation * i - top + out_height, rows), first)
            total = complete[lag]
            if first > 0:
                total = total - _lagged(columns, n, height, 0, first, shift)
            if last < rows:
                total = total - _lagged(columns, n, height, last, rows - last, shift)
            above += (total,)
    size = columns.shape[1]
    result: tuple[Tensor, ...] = ()
    for i in range(kh):
        for j in range(kh):
            if j >= i:
                result += (above[_position(kh, i, j)],)
            else:
                mirrored = above[_position(kh, j, i)].reshape((-1, size, size))
                result += (mirrored.transpose((0, 2, 1)).reshape(-1),)
    return ops.stack(result)


def _position(kh: int, i: int, j: int) -> int:
    """Where the pair (i, j), j >= i, stands in a list of all of them, row by row."""
    return i * kh - i * (i - 1) // 2 + j - i


def _lagged(columns: Tensor, n: int, height: int, first: int, count: int, shift: int) -> Tensor:
    """Sum over samples and image rows first .. first + count - 1 of u_r u_{r + shift}^T, flat."""
    size = columns.shape[1]
    width = columns.shape[2] // height
    if count <= 0:
        return ops.zeros((columns.shape[0] // n * size * size,), columns.dtype)
    if count == height:
        product = _OUTER(columns, columns)
    else:
        end = first + count
        left = columns[:, :, first * width : end * width]
        right = left
        if shift > 0:
            right = columns[:, :, (first + shift) * width : (end + shift) * width]
        product = _OUTER(left, right)
    return product.reshape((n, -1)).sum(0)


def _cut(blocks: Tensor, plan: RowPlan, layout: BlockLayout, groups: int) -> Tensor:
    """The entries of every block, out of those of the channels that it touches."""
    size = blocks.shape[-1]
    offsets = Tensor(plan.offsets, ms.int32).reshape((-1, 1, 1))
    entry = ops.arange(layout.size).astype(ms.int32).reshape((1, -1, 1))
    number = ops.arange(layout.blocks).astype(ms.int32).reshape((-1, 1, 1))
    chosen = ops.arange(size).astype(ms.int32).reshape((1, 1, -1)) == entry + offsets
    real = number * layout.size + entry < layout.dim
    picker = ops.logical_and(chosen, real).astype(ms.float32)
    picker = ops.tile(picker, (groups, 1, 1))
    return _OUTER(ops.bmm(picker, blocks), picker)
