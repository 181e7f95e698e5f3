"""What the rules that make a layer's statistics in its backward pass have in common."""

from __future__ import annotations

from typing import Optional

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindspore_thor.graph.operators import CAST, CONCAT0
from mindspore_thor.layers.rows import Rows
from mindspore_thor.layers.tokens import real_positions, times_rows
from mindspore_thor.linalg.moments import with_ones
from mindspore_thor.linalg.sums import SUM

Seen = tuple[Tensor, Tensor, Optional[Tensor], int, Tensor]
"""What a rule makes statistics of (a plain tuple: the compiler makes no named ones).

x: the layer's input; on tokens float32, and zero where they are padding.
g: the columns of the per-sample output gradients.
ones: the columns of what is appended to a for the bias; None for ones.
count: what sums over samples and positions are divided by; 0 for how many these are.
meta: META, see :class:`StatisticsRule`.
"""


class StatisticsRule(nn.Cell):
    """Base of the rules (x, out, dout, state) -> one float32 vector of statistics.

    The vector ends with META: (1, T, N), the positions and samples that it is a mean over. On
    tokens [N, S, d] of a geometry with a ``token_mode`` the statistics are sums over the real ones
    divided by N, with g = N dL/ds, and T are the real ones per sample; see
    :mod:`mindspore_thor.curvature.tokens` for what becomes of them.

    Args:
        rows: the layer's geometry.
        homogeneous: whether a one is appended to a, so that the statistics cover the bias.
    """

    def __init__(self, rows: Rows, homogeneous: bool) -> None:
        super().__init__()
        self.rows = rows
        self.homogeneous = homogeneous
        self.token_mode = rows.token_mode
        self.has_tokens = rows.token_mode != ""

    def seen(self, x: Tensor, dout: Tensor) -> Seen:
        """What is left of a layer's input and output gradient without padding."""
        if not self.has_tokens:
            return x, self.rows.output_columns(dout), None, 0, self.meta(x, dout)
        if len(x.shape) == 2:  # no token axis, of which a part may be padding
            return x, self.rows.output_columns(dout), None, 0, self.meta(x, dout)
        x, dout, ones, meta = self.without_padding(x, dout)
        n = x.shape[0]
        return x, self.rows.output_positions(dout) * n, ones, n, meta

    def without_padding(self, x: Tensor, dout: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens and their output gradients, zero at padding; the ones for the bias; META.

        Where means over a sample's tokens are made of them, all are weighted such that those are
        the means over the real ones.
        """
        n = x.shape[0]
        weights = real_positions(dout)
        rows = SUM(weights.reshape((1, -1)), 1) * (1.0 / n)
        if self.token_mode == "reduce":
            lengths = SUM(weights.reshape((n, -1)), 1)
            share = (weights.size // n) / ops.maximum(lengths, 1.0)
            weights = weights * share.reshape((n,) + (1,) * (len(x.shape) - 1))
            dout = times_rows(dout, weights)
        meta = CONCAT0((Tensor([1.0], ms.float32), rows, Tensor([n], ms.float32)))
        x = times_rows(CAST(x, ms.float32), weights)
        return x, dout, self.rows.position_columns(weights), meta

    def inputs(self, x: Tensor, ones: Tensor | None = None) -> Tensor:
        """The columns of a, float32, with their one (or ``ones``) where the bias is covered."""
        a = self.rows.input_columns(CAST(x, ms.float32))
        if self.homogeneous:
            a = with_ones(a, ones)
        return a

    def meta(self, x: Tensor, dout: Tensor) -> Tensor:
        """META of statistics that are means over all rows, float32 [3]."""
        return Tensor([1.0, self.rows.positions(dout), self.rows.samples(x)], ms.float32)
