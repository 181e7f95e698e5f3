"""``nn.Conv3d`` without groups: no operator makes patches of volumes, slices do."""

from __future__ import annotations

from typing import Any, NamedTuple

from mindspore import Tensor, nn, ops

from mindspore_thor.graph.shared import Maker, same_operator
from mindspore_thor.graph.slices import every, part_or_all
from mindspore_thor.layers.layer_type import LayerType
from mindspore_thor.layers.rows import LinearRows
from mindspore_thor.linalg.patches import same_padding

_MAP = ops.Map()


class VolumeGeometry(NamedTuple):
    """The constants of one convolution, in the (depth, height, width) order.

    ``padding`` is (front, back, top, bottom, left, right), or ``None`` for the ``"same"`` mode.
    """

    kernel: tuple[int, int, int]
    stride: tuple[int, int, int]
    padding: tuple[int, int, int, int, int, int] | None
    dilation: tuple[int, int, int]


def _tap(
    x: Tensor, spans: tuple[int, ...], stride: tuple[int, ...], d: int, h: int, w: int
) -> Tensor:
    """What one entry of the kernel sees, [N, C, D', H', W']."""
    for axis, start in ((2, d), (3, h), (4, w)):
        x = every(part_or_all(x, start, spans[axis - 2], axis), stride[axis - 2], axis)
    return x


class Conv3dRows(LinearRows):
    """``nn.Conv3d``: rows are patches of volumes.

    Args:
        primitive: the layer's own ``Conv3D`` operator.
        geometry: kernel, stride, padding and dilation.
        weight_shape: [C_out, C_in, kd, kh, kw].
    """

    def __init__(
        self, primitive: ops.Primitive, geometry: VolumeGeometry, weight_shape: tuple[int, ...]
    ) -> None:
        c_out, c_in, kd, kh, kw = weight_shape
        super().__init__(c_in * kd * kh * kw, c_out, weight_shape)
        self.conv = primitive
        self.bias_add = ops.BiasAdd(data_format="NCDHW")
        self.volume = geometry
        taps = [
            (d * geometry.dilation[0], h * geometry.dilation[1], w * geometry.dilation[2])
            for d in range(kd)
            for h in range(kh)
            for w in range(kw)
        ]
        self.taps = tuple(zip(*taps))
        self.reach = tuple((k - 1) * d for k, d in zip(geometry.kernel, geometry.dilation))

    def apply(self, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution, [N, C_in, D, H, W] -> [N, C_out, D', H', W']."""
        return self.conv(x, weight)

    def _padding(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(left, right, top, bottom, front, back), as ``ops.pad`` takes it."""
        kernel, stride, padding, dilation = self.volume
        if padding is None:
            d = same_padding(shape[2], kernel[0], stride[0], dilation[0])
            h = same_padding(shape[3], kernel[1], stride[1], dilation[1])
            w = same_padding(shape[4], kernel[2], stride[2], dilation[2])
            return w + h + d
        return padding[4:] + padding[2:4] + padding[:2]

    def input_columns(self, x: Tensor) -> Tensor:
        """Patches as [N, 1, d_in, T], ordered (C, kd, kh, kw)."""
        padding = self._padding(x.shape)
        if sum(padding) > 0:
            x = ops.pad(x, padding)
        n, _, depth, height, width = x.shape
        reach = self.reach
        spans = (depth - reach[0], height - reach[1], width - reach[2])
        taps = _MAP(ops.partial(_tap, x, spans, self.volume[1]), *self.taps)
        return ops.stack(taps, 2).reshape((n, 1, self.d_in, -1))

    def output_positions(self, out: Tensor) -> Tensor:
        """Something of the output's shape as [N, 1, d_out, T], not scaled."""
        return out.reshape((out.shape[0], 1, self.d_out, -1))

    def input_units(self) -> int:
        """How many parts the input columns can be made in: input channels."""
        return self.weight_shape[1]

    def part_of_columns(self, x: Tensor, start: int, stop: int) -> Tensor:
        """The patches of input channels start..stop alone."""
        columns = self.input_columns(x)
        width = self.d_in // self.weight_shape[1]
        return part_or_all(columns, start * width, (stop - start) * width, 2)

    def add_bias(self, out: Tensor, bias: Tensor) -> Tensor:
        """The layer's bias added to its output."""
        return self.bias_add(out, bias)


def _rows(make: Maker, cell: Any, token_mode: str) -> Conv3dRows:
    padding: Any
    if cell.pad_mode == "same":
        padding = None
    elif cell.pad_mode == "valid":
        padding = (0,) * 6
    else:
        padding = (cell.padding,) * 6 if isinstance(cell.padding, int) else tuple(cell.padding)
    geometry = VolumeGeometry(
        tuple(cell.kernel_size), tuple(cell.stride), padding, tuple(cell.dilation)
    )
    return make(Conv3dRows, same_operator(make, cell.conv3d), geometry, tuple(cell.weight.shape))


def _why_not(cell: Any) -> str:
    # With groups the layer calls its operator once for each, on parts of the weight.
    return "" if cell.group == 1 else "groups of a Conv3d: plain gradient"


CONV3D = LayerType(nn.Conv3d, _rows, operator="conv3d", why_not=_why_not)
