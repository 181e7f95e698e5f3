"""``nn.Dense``, on rows and on tokens."""

from __future__ import annotations

from typing import Any

from mindspore import Tensor, nn, ops

from mindspore_thor.graph.operators import TRANSPOSE
from mindspore_thor.graph.shared import Maker
from mindspore_thor.graph.slices import part_or_all
from mindspore_thor.layers.layer_type import LayerType
from mindspore_thor.layers.rows import LinearRows
from mindspore_thor.linalg.sums import SUM


class DenseRows(LinearRows):
    """``nn.Dense``: rows are samples; tokens [N, S, d] are handled as ``token_mode`` says.

    Args:
        d_in: input features.
        d_out: output features.
        token_mode: ``"expand"`` treats the N*S tokens as samples with g = N*S*dL/ds;
            ``"reduce"`` averages a and g over the tokens first; ``"share"`` keeps them as T
            positions of N samples with g = N*dL/ds. Padding is no token: of M real ones the modes
            take M for N*S, the mean over a sample's real ones, and M/N for T (see
            :mod:`mindspore_thor.curvature.tokens`); what is here knows of none.
        groups: independent maps, whose features lie side by side in the input and in the output,
            and whose weights lie one below the other.
    """

    def __init__(self, d_in: int, d_out: int, token_mode: str = "expand", groups: int = 1) -> None:
        super().__init__(d_in, d_out, (groups * d_out, d_in), groups)
        self.token_mode = token_mode
        self.matmul = ops.MatMul(transpose_b=True)
        self.batched = ops.BatchMatMul(transpose_b=True)
        self.inputs = groups * d_in
        self.outputs = groups * d_out

    def apply(self, x: Tensor, weight: Tensor) -> Tensor:
        """The linear maps, [..., groups * d_in] -> [..., groups * d_out]."""
        shape = x.shape
        if len(shape) == 2 and self.groups == 1:
            return self.matmul(x, weight)
        flat = x.reshape((-1, self.inputs))
        flat = self.matmul(flat, weight) if self.groups == 1 else self._side_by_side(flat, weight)
        return flat.reshape(shape[:-1] + (self.outputs,))  # noqa: RUF005 (the graph parser knows no unpacking)

    def _side_by_side(self, rows: Tensor, weight: Tensor) -> Tensor:
        maps = TRANSPOSE(rows.reshape((-1, self.groups, self.d_in)), (1, 0, 2))
        out = self.batched(maps, weight.reshape((self.groups, self.d_out, self.d_in)))
        return TRANSPOSE(out, (1, 0, 2))

    def _columns(self, rows: Tensor, features: int) -> Tensor:
        groups = self.groups
        if len(rows.shape) == 2 or self.token_mode == "expand":
            return rows.reshape((-1, groups, features, 1))
        rows = rows.reshape((rows.shape[0], -1, groups * features))
        if self.token_mode == "reduce":
            return (SUM(rows, 1) * (1.0 / rows.shape[1])).reshape((-1, groups, features, 1))
        return TRANSPOSE(rows, (0, 2, 1)).reshape((rows.shape[0], groups, features, -1))

    def samples(self, x: Tensor) -> int:
        """Number of samples N that the statistics average over."""
        if len(x.shape) == 2 or self.token_mode != "expand":
            return x.shape[0]
        return x.size // self.inputs

    def positions(self, dout: Tensor) -> int:
        """Number of shared positions T."""
        if len(dout.shape) == 2 or self.token_mode != "share":
            return 1
        return dout.size // (self.outputs * dout.shape[0])

    def input_columns(self, x: Tensor) -> Tensor:
        """A as [N, groups, d_in, T]."""
        return self._columns(x, self.d_in)

    def output_columns(self, dout: Tensor) -> Tensor:
        """G as [N, groups, d_out, T], from the gradient of the mean loss."""
        scale = dout.shape[0]
        if self.token_mode != "share":
            scale = dout.size // self.outputs
        return self._columns(dout, self.d_out) * scale

    def output_positions(self, out: Tensor) -> Tensor:
        """Something of the output's shape as [N, groups, d_out, T], not scaled."""
        return self._columns(out, self.d_out)

    def position_columns(self, weights: Tensor) -> Tensor:
        """One number for each token, [..., S, 1], as [N, groups, 1, T]."""
        if self.groups > 1:
            weights = ops.tile(weights, (1,) * (len(weights.shape) - 1) + (self.groups,))
        return self._columns(weights, 1)

    def part_of_columns(self, x: Tensor, start: int, stop: int) -> Tensor:
        """The input columns of features start..stop alone; of groups where there are several."""
        if self.groups > 1:
            return part_or_all(self.input_columns(x), start, stop - start, 1)
        return self._columns(part_or_all(x, start, stop - start, len(x.shape) - 1), stop - start)


class CapturedDense(nn.Dense):
    """``nn.Dense`` whose product sees the input before tokens are flattened."""

    def construct(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self._thor_hook(x, self.weight)
        shape = x.shape
        # Bias and activation work on rows, as in nn.Dense: a PReLU's channel is the last axis.
        x = x.reshape((-1, self.out_channels))
        if self.has_bias:
            x = self.bias_add(x, self.bias)
        if self.activation_flag:
            x = self.activation(x)
        return x.reshape(shape)


def _rows(make: Maker, cell: Any, token_mode: str) -> DenseRows:
    return make(DenseRows, cell.weight.shape[1], cell.weight.shape[0], token_mode)


DENSE = LayerType(
    nn.Dense, _rows, operator="matmul", captured=CapturedDense, activation="activation"
)
