"""``nn.Conv2d``, with padding, stride, dilation and groups."""

from __future__ import annotations

from typing import Any

from mindspore import Tensor, nn, ops

from mindspore_thor.graph.shared import Maker, same_operator
from mindspore_thor.graph.slices import part_or_all
from mindspore_thor.layers.layer_type import LayerType
from mindspore_thor.layers.rows import LinearRows
from mindspore_thor.linalg.patches import ConvGeometry, patches_of


@ops.constexpr
def _columns(shape: tuple[int, ...], groups: int, features: int) -> tuple[int, ...]:
    return (shape[0], groups, features, -1)


class ConvRows(LinearRows):
    """``nn.Conv2d``: rows are patches, one independent map per group.

    Args:
        primitive: the layer's own ``Conv2D`` operator.
        geometry: kernel, stride, padding, dilation and groups.
        weight_shape: [C_out, C_in / groups, kh, kw].
    """

    geometry: ConvGeometry

    def __init__(
        self, primitive: ops.Primitive, geometry: ConvGeometry, weight_shape: tuple[int, ...]
    ) -> None:
        c_out, c_in, kh, kw = weight_shape
        super().__init__(c_in * kh * kw, c_out // geometry.groups, weight_shape, geometry.groups)
        self.conv = primitive
        self.bias_add = ops.BiasAdd()
        self.geometry = geometry
        self.patches = patches_of(geometry)

    def apply(self, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution, [N, C_in, H, W] -> [N, C_out, H', W']."""
        return self.conv(x, weight)

    def input_columns(self, x: Tensor) -> Tensor:
        """Patches as [N, groups, d_in, T], ordered (C, kh, kw)."""
        return self.patches(x)

    def output_positions(self, out: Tensor) -> Tensor:
        """Something of the output's shape as [N, groups, d_out, T], not scaled."""
        return out.reshape(_columns(out.shape, self.groups, self.d_out))

    def input_units(self) -> int:
        """How many parts the input columns can be made in: input channels, or groups."""
        return self.weight_shape[1] if self.groups == 1 else self.groups

    def part_of_columns(self, x: Tensor, start: int, stop: int) -> Tensor:
        """The patches of input channels start..stop alone; of groups where there are several."""
        if self.groups == 1:
            return self.patches(part_or_all(x, start, stop - start, 1))
        width = self.weight_shape[1]
        count = stop - start
        return self.patches(part_or_all(x, start * width, count * width, 1), count)

    def add_bias(self, out: Tensor, bias: Tensor) -> Tensor:
        """The layer's bias added to its output."""
        return self.bias_add(out, bias)


def conv_rows(make: Maker, cell: Any, token_mode: str) -> ConvRows:
    """The geometry of a layer whose ``conv2d`` is a ``Conv2D`` operator."""
    padding: tuple[int, int, int, int] | None
    if cell.pad_mode == "same":
        padding = None
    elif cell.pad_mode == "valid":
        padding = (0, 0, 0, 0)
    else:
        pad = cell.padding
        padding = (pad, pad, pad, pad) if isinstance(pad, int) else tuple(pad)
    geometry = ConvGeometry(
        tuple(cell.kernel_size), tuple(cell.stride), padding, tuple(cell.dilation), cell.group
    )
    return make(ConvRows, same_operator(make, cell.conv2d), geometry, tuple(cell.weight.shape))


def _why_not(cell: Any) -> str:
    return "" if cell.data_format == "NCHW" else "NHWC layout: plain gradient"


CONV2D = LayerType(nn.Conv2d, conv_rows, operator="conv2d", why_not=_why_not)
