"""TKFAC: trace-restricted Kronecker-factored approximation (Gao et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

from mindspore_thor.curvature.base import GroupCurvature
from mindspore_thor.curvature.tkfac import TraceFactors
from mindspore_thor.nn import CoveredLayer
from mindspore_thor.optim.averaged import AveragedStatistics


class TKFAC(AveragedStatistics):
    """Factors weighted by the other side's norm: F ~= delta Phi (x) Psi with tr F = delta.

    A bias is preconditioned together with its weight: a~ = [a; 1].

    Args:
        net: the network, changed in place so that its layers can capture.
        learning_rate: number, list, or MindSpore schedule.
        damping: lam > 0, a number or a schedule; sqrt(lam) is added to both factors.
        momentum: heavy-ball coefficient in [0, 1).
        weight_decay: added to the preconditioned gradient of parameters with >= 2 dimensions.
        factor_decay: weight of the OLD moments in the moving average, in [0, 1); the first update
            overwrites.
        factor_interval: steps between two collections of the moments.
        inverse_interval: steps between two inversions.
        kl_clip: V is scaled by min(1, sqrt(kl_clip / (lr^2 sum <V, D>))); None (default) for no
            clipping.
        **options: see :class:`~mindspore_thor.optim.base.SecondOrder`.

    Raises:
        UserError: for values out of range.
    """

    label = "tkfac"

    def build_group(self, name: str, layers: Sequence[CoveredLayer]) -> GroupCurvature:
        """Two whole factors and their inverses."""
        rows = layers[0].rows
        assert rows is not None
        return TraceFactors(name, len(layers), rows, self.homogeneous(layers[0]), self._decay)
