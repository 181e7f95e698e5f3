"""Eva: second-order training with vectors instead of Kronecker factors (Zhang et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mindspore import nn

from mindspore_thor.curvature.base import GroupCurvature
from mindspore_thor.curvature.eva import RankOne
from mindspore_thor.nn import CoveredLayer
from mindspore_thor.optim.averaged import AveragedStatistics
from mindspore_thor.optim.base import Schedule
from mindspore_thor.optim.intervals import IntervalLike


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
        rows = layers[0].rows
        assert rows is not None
        return RankOne(name, len(layers), rows, self.homogeneous(layers[0]), self._decay)
