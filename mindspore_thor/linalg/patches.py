"""Convolution patches (im2col) with true padding, stride, dilation and groups."""

from __future__ import annotations

from typing import NamedTuple

from mindspore import Tensor, nn, ops

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


class Patches(nn.Cell):
    """Patches of a feature map as columns.

    Args:
        geometry: the convolution's constants.

    ``construct`` takes x [N, C, H, W], and the number of groups in it where it is a part of the
    layer's input (0 for all), and returns [N, groups, C/groups * kh * kw, T] in the order (channel,
    kh, kw) of ``weight.reshape(d_out, -1)``; T is the number of output positions.
    """

    def __init__(self, geometry: ConvGeometry) -> None:
        super().__init__(auto_prefix=False)
        self.geometry = geometry
        self.groups = geometry.groups

    def construct(self, x: Tensor, groups: int = 0) -> Tensor:
        """See the class; for any padding."""
        geometry = self.geometry
        _, _, height, width = x.shape
        top, bottom, left, right = resolve_padding(geometry, height, width)
        if top == bottom and left == right:
            pad = (top, left)
        else:
            x = ops.pad(x, (left, right, top, bottom))
            pad = (0, 0)
        columns = im2col(x, geometry.kernel, geometry.dilation, pad, geometry.stride)
        return columns.reshape(_columns(columns.shape, groups, self.groups))


class _Pointwise(Patches):
    """Those of a kernel of one pixel are the (strided) input itself."""

    def construct(self, x: Tensor, groups: int = 0) -> Tensor:
        return x.reshape(_columns(x.shape, groups, self.groups))


class _StridedPointwise(Patches):
    """Likewise, every so many rows and columns."""

    def construct(self, x: Tensor, groups: int = 0) -> Tensor:
        x = every(every(x, self.geometry.stride[0], 2), self.geometry.stride[1], 3)
        return x.reshape(_columns(x.shape, groups, self.groups))


class _Even(Patches):
    """With the same padding at both ends, which the operator does."""

    def __init__(self, geometry: ConvGeometry, padding: tuple[int, int]) -> None:
        super().__init__(geometry)
        self.padding = padding

    def construct(self, x: Tensor, groups: int = 0) -> Tensor:
        geometry = self.geometry
        columns = im2col(x, geometry.kernel, geometry.dilation, self.padding, geometry.stride)
        return columns.reshape(_columns(columns.shape, groups, self.groups))


@ops.constexpr
def _columns(shape: tuple[int, ...], groups: int, all_groups: int) -> tuple[int, ...]:
    groups = groups or all_groups
    return (shape[0], groups, shape[1] // groups, -1)


def patches_of(geometry: ConvGeometry) -> Patches:
    """The cell for a convolution: one for each way, because a question costs the compiler more.

    Args:
        geometry: the convolution's constants.
    """
    padding = geometry.padding
    if geometry.kernel == (1, 1) and not any(padding or ()):
        return _Pointwise(geometry) if geometry.stride == (1, 1) else _StridedPointwise(geometry)
    if padding is not None and padding[0] == padding[1] and padding[2] == padding[3]:
        return _Even(geometry, (padding[0], padding[2]))
    return Patches(geometry)
