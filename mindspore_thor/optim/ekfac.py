"""EKFAC: eigenvalue-corrected Kronecker factorization (George et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

from mindspore_thor.curvature.base import GroupCurvature
from mindspore_thor.curvature.ekfac import CorrectedFactors
from mindspore_thor.nn import CoveredLayer
from mindspore_thor.optim.averaged import AveragedStatistics


class EKFAC(AveragedStatistics):
    """KFAC's eigenbasis with the true second moments S of the gradient in it.

    A step that refreshes the basis passes over its batch twice: once for A and G, and once more for
    S in the new basis, so at intervals of 1 every step is exact. Between two refreshes S is
    measured every ``factor_interval`` steps in the basis in use, and averaged like A and G; a new
    basis starts it anew. In a training cell other than ``TrainStep`` there is no second pass:
    KFAC's eigenvalues T dg da^T then stand in for S until the next collection.

    A bias is preconditioned together with its weight: a~ = [a; 1].

    Args:
        net: the network, changed in place so that its layers can capture.
        learning_rate: number, list, or MindSpore schedule.
        damping: lam > 0, a number or a schedule; the one of the current step is used.
        momentum: heavy-ball coefficient in [0, 1).
        weight_decay: added to the preconditioned gradient of parameters with >= 2 dimensions.
        factor_decay: weight of the OLD A, G and S in their moving averages, in [0, 1); the first
            update overwrites.
        factor_interval: steps between two collections of A, G and S.
        inverse_interval: steps between two eigendecompositions of A and G.
        kl_clip: V is scaled by min(1, sqrt(kl_clip / (lr^2 sum <V, D>))); None (default) for no
            clipping.
        **options: see :class:`~mindspore_thor.optim.base.SecondOrder`.

    Raises:
        UserError: for values out of range.
    """

    label = "ekfac"
    remeasures = True
    needs_whole_batch = "a new basis needs a second pass over the whole batch"

    def build_group(self, name: str, layers: Sequence[CoveredLayer]) -> GroupCurvature:
        """Whole factors, their eigenbasis, and S in it."""
        rows = layers[0].rows
        assert rows is not None
        return CorrectedFactors(
            name, len(layers), rows, self.homogeneous(layers[0]), self._decay, self.due
        )
