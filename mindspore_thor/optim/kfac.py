"""KFAC: Kronecker-factored approximate curvature (Martens & Grosse 2015, Grosse & Martens 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mindspore import nn

from mindspore_thor.curvature.base import GroupCurvature
from mindspore_thor.curvature.eigen_factors import EigenFactors
from mindspore_thor.curvature.inverse_factors import InverseFactors
from mindspore_thor.nn import CoveredLayer
from mindspore_thor.optim.averaged import AveragedStatistics
from mindspore_thor.optim.base import Schedule
from mindspore_thor.optim.checks import check_choice
from mindspore_thor.optim.intervals import IntervalLike
from mindspore_thor.optim.thor import DAMPING_MODES


class KFAC(AveragedStatistics):
    """Averaged factors, whole inverses or eigendecompositions, KL clipping (methods section 4).

    A bias is preconditioned together with its weight: a~ = [a; 1].

    Args:
        net: the network, changed in place so that its layers can capture.
        learning_rate: number, list, or MindSpore schedule.
        damping: lam > 0, a number or a schedule.
        momentum: heavy-ball coefficient in [0, 1).
        weight_decay: added to the preconditioned gradient of parameters with >= 2 dimensions.
        factor_decay: weight of the OLD factor in the moving average, in [0, 1); the first update
            overwrites.
        factor_interval: steps between two collections of A and G.
        inverse_interval: steps between two inversions or decompositions.
        kl_clip: V is scaled by min(1, sqrt(kl_clip / (lr^2 sum <V, D>))); None switches it off.
        method: "eigen", exact for A (x) G + lam I, or "inverse", factored pi-damping.
        damping_mode: for "inverse": "pi" (default), "sqrt" or "paper".
        **options: see :class:`~mindspore_thor.optim.base.SecondOrder`.

    Raises:
        UserError: for values out of range.
    """

    label = "kfac"

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
        method: str = "eigen",
        damping_mode: str = "pi",
        **options: Any,
    ) -> None:
        self._method = check_choice("method", method, ("eigen", "inverse"))
        self._damping_mode = check_choice("damping_mode", damping_mode, DAMPING_MODES)
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
        """Whole factors, inverted or decomposed."""
        rows = layers[0].rows
        assert rows is not None
        homogeneous = self.homogeneous(layers[0])
        if self._method == "eigen":
            return EigenFactors(name, len(layers), rows, homogeneous, self._decay)
        return InverseFactors(
            name, len(layers), rows, homogeneous, None, self._decay, self._damping_mode
        )
