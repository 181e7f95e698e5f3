"""What the methods with averaged Kronecker statistics share: the average's weight, the bias."""

from __future__ import annotations

from typing import Any

from mindspore import nn

from mindspore_thor.layers.coverage import CoveredLayer
from mindspore_thor.optim.base import Schedule, SecondOrder
from mindspore_thor.optim.checks import check_decay
from mindspore_thor.optim.intervals import IntervalLike


class AveragedStatistics(SecondOrder):
    """Statistics in a moving average; a bias is preconditioned together with its weight.

    With a~ = [a; 1] a trained bias is the last column of its layer's matrix. A subclass sets
    ``label`` and builds its curvature with the weight ``factor_decay`` of the old statistics.

    Args:
        net: the network, changed in place so that its layers can capture.
        learning_rate: number, list, or MindSpore schedule.
        damping: lam > 0, a number or a schedule.
        momentum: heavy-ball coefficient in [0, 1).
        weight_decay: added to the preconditioned gradient of parameters with >= 2 dimensions.
        factor_decay: weight of the OLD statistics in the moving average, in [0, 1); the first
            update overwrites.
        factor_interval: steps between two collections of statistics.
        inverse_interval: steps between two refreshes of what is derived from them.
        kl_clip: V is scaled by min(1, sqrt(kl_clip / (lr^2 sum <V, D>))); None for no clipping.
        **options: see :class:`~mindspore_thor.optim.base.SecondOrder`.

    Raises:
        UserError: for values out of range.
    """

    label: str
    """Prefix of the state's parameter names."""

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
        kl_clip: float | None = None,
        **options: Any,
    ) -> None:
        self._decay = check_decay(factor_decay)
        super().__init__(
            net,
            learning_rate,
            label=self.label,
            damping=damping,
            momentum=momentum,
            weight_decay=weight_decay,
            factor_interval=factor_interval,
            inverse_interval=inverse_interval,
            kl_clip=kl_clip,
            **options,
        )

    def homogeneous(self, layer: CoveredLayer) -> bool:
        """A trained bias is the last column of the layer's matrix."""
        return layer.bias >= 0
