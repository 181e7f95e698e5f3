"""Convolution patches (im2col) with true padding, stride, dilation and groups."""

from __future__ import annotations

from typing import NamedTuple

from mindspore import Tensor, ops

from mindspore_thor.graph.slices import every
from mindspore_thor.linalg.device import im2col


class ConvGeometry(NamedTuple):
    """The constants of one convolution, in the (height, width) order.

    ``padding`` is (top, bottom, left, right) in pixels, or ``None`` for MindSpore's ``"same"``
    mode, whose padding depends on the input size.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] | None
    dilation: tuple[int, int]
    groups: int


# Not in the graph: a call of max() compiles for 50 ms.
@ops.constexpr
def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Padding before and after one axis in ``"same"`` mode: ceil(size / stride) outputs."""
    out = -(-size // stride)
    total = max((out - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def resolve_padding(geometry: ConvGeometry, height: int, width: int) -> tuple[int, int, int, int]:
    """The (top, bottom, left, right) padding for an input of that size."""
    if geometry.padding is not None:
        return geometry.padding
    kernel, stride, dilation = geometry.kernel, geometry.stride, geometry.dilation
    return same_padding(height, kernel[0], stride[0], dilation[0]) + same_padding(
        width, kernel[1], stride[1], dilation[1]
    )


def unfold(x: Tensor, geometry: ConvGeometry, groups: int = 0) -> Tensor:
    """Patches of ``x`` as columns.

    Args:
        x: feature map, [N, C, H, W].
        geometry: the convolution's constants.
        groups: number of groups in ``x`` where it is a part of the layer's input; 0 for all.

    Returns:
        [N, groups, C/groups * kh * kw, T] in the order (channel, kh, kw) of
        ``weight.reshape(d_out, -1)``; T is the number of output positions.
    """
    n, channels, height, width = x.shape
    if groups == 0:
        groups = geometry.groups
    top, bottom, left, right = resolve_padding(geometry, height, width)
    if geometry.kernel == (1, 1) and (top, bottom, left, right) == (0, 0, 0, 0):
        # A pointwise convolution's patches are the (strided) input itself.
        x = every(every(x, geometry.stride[0], 2), geometry.stride[1], 3)
        return x.reshape((n, groups, channels // groups, -1))
    if top == bottom and left == right:
        pad = (top, left)
    else:
        x = ops.pad(x, (left, right, top, bottom))
        pad = (0, 0)
    columns = im2col(x, geometry.kernel, geometry.dilation, pad, geometry.stride)
    d = channels // groups * geometry.kernel[0] * geometry.kernel[1]
    return columns.reshape((n, groups, d, -1))
