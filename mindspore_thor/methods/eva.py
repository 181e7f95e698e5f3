"""Eva: a rank-one curvature from the means of inputs and output gradients (methods section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindspore_thor.capture.rule import StatisticsRule
from mindspore_thor.curvature.group import GroupCurvature
from mindspore_thor.curvature.tokens import GRADIENTS, INPUTS, token_parts_of
from mindspore_thor.graph.operators import (
    ADD,
    BMM,
    CONCAT0,
    CONCAT1,
    DIV,
    GREATER,
    MAXIMUM,
    MUL,
    SUB,
    TRANSPOSE,
)
from mindspore_thor.graph.shared import Maker
from mindspore_thor.graph.slices import part
from mindspore_thor.layers.coverage import CoveredLayer
from mindspore_thor.layers.rows import Rows
from mindspore_thor.linalg.inverse import ROUNDING
from mindspore_thor.linalg.sums import SUM, SUM_KEPT
from mindspore_thor.linalg.sums import rows as flat
from mindspore_thor.optim.averaged import AveragedStatistics
from mindspore_thor.optim.base import Schedule
from mindspore_thor.optim.intervals import IntervalLike

_SMALLEST_SIZE = 1e-30
"""Stands for |a|^2 |g|^2 of a dead layer."""


def mean_columns(columns: Tensor, count: int = 0) -> Tensor:
    """The mean over samples and positions, [N, groups, d, T] -> [groups, d].

    ``count`` is what the sum is divided by; 0 for how many they are.
    """
    return SUM(columns, (0, 3)) * (1.0 / (count or columns.shape[0] * columns.shape[3]))


class MeanRule(StatisticsRule):
    """Backward rule: the mean input, the mean output gradient, then (1, T, N), as one vector.

    Means are taken over samples and positions, for every group of a convolution.

    Args:
        rows: the layer's geometry.
        homogeneous: whether a one is appended to the mean input, so that it covers the bias.
    """

    def construct(self, x: Tensor, out: Tensor, dout: Tensor, state: Tensor) -> Tensor:
        """X and the gradient of the layer's output -> statistics."""
        # Patches and token rows are linear in x: the mean over the batch may come first, which
        # leaves one image to unfold instead of N. The sum of dL/ds over the batch is likewise the
        # mean of g = N dL/ds.
        # A sum and a factor, because MindSpore's CPU kernel for means is ten times slower.
        if self.has_tokens and len(x.shape) > 2:
            return self.of_tokens(x, dout)
        total = SUM_KEPT(ops.cast(x, ms.float32), 0)
        a = mean_columns(self.rows.input_columns(total)) * (1.0 / x.shape[0])
        g = mean_columns(self.rows.output_columns(SUM_KEPT(dout, 0)))
        if self.homogeneous:
            a = CONCAT1((a, ops.ones((a.shape[0], 1), ms.float32)))
        return CONCAT0((a.reshape(-1), g.reshape(-1), self.meta(x, dout)))

    def of_tokens(self, x: Tensor, dout: Tensor) -> Tensor:
        """The same of the real tokens, divided by N alone."""
        n = x.shape[0]
        x, dout, ones, meta = self.without_padding(x, dout)
        a = mean_columns(self.rows.input_columns(SUM_KEPT(x, 0)), n)
        g = mean_columns(self.rows.output_positions(SUM_KEPT(dout, 0)), 1)
        if self.homogeneous:
            a = CONCAT1((a, mean_columns(ones, n)))
        return CONCAT0((a.reshape(-1), g.reshape(-1), meta))


class RankOne(GroupCurvature):
    """V = (1/lam) [D - (g^T D a) / (lam + |a|^2 |g|^2) g a^T] with averaged means a and g.

    That is (C + lam I)^-1 vec(D) for the rank-one C = (a (x) g)(a (x) g)^T, by the
    Sherman-Morrison formula. With a small lam it divides the difference of two nearly equal
    matrices by lam. It is therefore evaluated as t / (lam + |a|^2 |g|^2) g a^T + R / lam, where
    D = t g a^T + R and <R, g a^T> = 0. An R that float32 cannot tell from rounding errors of D
    (chosen: 4 sqrt(d) eps of its norm, d the longer side) is divided by |a|^2 |g|^2 at least, so
    that it is nothing beside the rest; a longer one is what the formula asks for.

    Nothing is derived from the statistics, so nothing needs refreshing.

    Args:
        name: prefix of the parameters' names.
        layers: L.
        rows: the layers' geometry.
        homogeneous: whether the bias is part of the matrix.
        decay: weight of the old means in the moving average; the first update overwrites.
    """

    starts_plain = False

    def __init__(self, name: str, layers: int, rows: Rows, homogeneous: bool, decay: float) -> None:
        self.d_in = rows.d_in + int(homogeneous)
        self.end_a = rows.groups * self.d_in
        super().__init__(name, layers, self.end_a + rows.groups * rows.d_out, decay)
        self.rows = rows
        self.token_mode = rows.token_mode
        self.token_parts = token_parts_of((self.end_a, INPUTS), (self.end - self.end_a, GRADIENTS))
        self.homogeneous = homogeneous
        # (4 sqrt(d) eps)^2: squares are compared.
        self.unseen = 16.0 * max(self.d_in, rows.d_out) * ROUNDING**2

    def make_rule(self, make: Maker, rows: Rows) -> nn.Cell:
        """Mean input and mean output gradient from one backward pass."""
        return make(MeanRule, rows, self.homogeneous)

    def ready(self) -> Tensor:
        """Which layers have means, boolean [L]."""
        return self.has_statistics().reshape((-1,))

    def ready_layers(self) -> np.ndarray:
        """The same on the host."""
        return self.statistics.asnumpy()[:, self.end] > 0

    def gradient_part(self) -> tuple[int, int]:
        """The mean output gradient."""
        return self.end_a, self.end - self.end_a

    def mean_a(self) -> Tensor:
        """Averaged mean input, [L, maps, d_in(+1), 1]."""
        means = part(self.statistics, 0, self.end_a, 1)
        return means.reshape((self.layers, -1, self.d_in, 1))

    def mean_g(self) -> Tensor:
        """Averaged mean output gradient, [L, maps, d_out, 1]."""
        means = part(self.statistics, self.end_a, self.end - self.end_a, 1)
        return means.reshape((self.layers, -1, self.rows.d_out, 1))

    def precondition(self, matrix: Tensor, damping: Tensor) -> Tensor:
        """The rank-one solve with this step's lam."""
        a = self.mean_a().reshape((-1, self.d_in, 1))
        g = self.mean_g().reshape((-1, self.rows.d_out, 1))
        overlap = BMM(BMM(TRANSPOSE(g, (0, 2, 1)), matrix), a)
        size = MUL(SUM_KEPT(MUL(a, a), (1, 2)), SUM_KEPT(MUL(g, g), (1, 2)))
        along = DIV(overlap, MAXIMUM(size, _SMALLEST_SIZE))
        outer = BMM(g, TRANSPOSE(a, (0, 2, 1)))
        rest = SUB(matrix, MUL(along, outer))
        # |D|^2 is t^2 |a|^2 |g|^2 where R is small.
        share = MUL(MUL(MUL(along, self.unseen), along), size)
        seen = GREATER(SUM(flat(MUL(rest, rest)), 1).reshape((-1, 1, 1)), share)
        divisor = ops.where(seen, damping, MAXIMUM(damping, size))
        return ADD(DIV(rest, divisor), MUL(DIV(along, ADD(damping, size)), outer))


class Eva(AveragedStatistics):
    """Rank-one curvature from averaged mean inputs and mean output gradients, KL clipping.

    A bias is preconditioned together with its weight: a~ = [a; 1].

    Args:
        net: the network, changed in place so that its layers can capture.
        learning_rate: number, list, or MindSpore schedule.
        damping: lam > 0, a number or a schedule; the one of the current step is used.
        momentum: heavy-ball coefficient in [0, 1).
        weight_decay: added to the preconditioned gradient of parameters with >= 2 dimensions.
        factor_decay: weight of the OLD means in the moving average, in [0, 1); the first update
            overwrites.
        factor_interval: steps between two collections of the means.
        inverse_interval: accepted for uniformity with the other methods, and checked, but without
            effect: the rank-one solve has nothing to refresh.
        kl_clip: V is scaled by min(1, sqrt(kl_clip / (lr^2 sum <V, D>))); None switches it off.
        **options: see :class:`~mindspore_thor.optim.base.SecondOrder`.

    Raises:
        UserError: for values out of range.
    """

    label = "eva"
    derives = False
    without = ("max_failures", "inverse_share")

    def __init__(
        self,
        net: nn.Cell,
        learning_rate: Any,
        damping: Schedule = 0.03,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        factor_decay: float = 0.95,
        factor_interval: IntervalLike = 1,
        inverse_interval: IntervalLike = 1,
        kl_clip: float | None = 0.001,
        **options: Any,
    ) -> None:
        super().__init__(
            net,
            learning_rate,
            damping,
            momentum,
            weight_decay,
            factor_decay,
            factor_interval,
            inverse_interval,
            kl_clip,
            **options,
        )

    def build_group(self, name: str, layers: Sequence[CoveredLayer]) -> GroupCurvature:
        """One pair of mean vectors."""
        rows = layers[0].linear
        return RankOne(name, len(layers), rows, self.homogeneous(layers[0]), self._decay)
