"""TKFAC: Kronecker factors that keep the Fisher block's trace (Gao et al. 2021, methods section 4).

F ~= delta Phi (x) Psi with delta = E[sum_t |g|^2 |a|^2], Phi = E[sum_t |g|^2 a a^T] / delta and
Psi = E[sum_t |a|^2 g g^T] / delta, so tr Phi = tr Psi = 1 and tr F = delta (exact for one position,
and otherwise as far as positions are independent).
"""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import Parameter, Tensor, nn

from mindspore_thor.capture.rule import StatisticsRule
from mindspore_thor.curvature.group import GroupCurvature, where_good
from mindspore_thor.curvature.state import state
from mindspore_thor.curvature.tokens import SQUARES, token_parts_of
from mindspore_thor.graph.operators import CONCAT0, DIV, ITEM, MAXIMUM, MUL, SQRT
from mindspore_thor.graph.shared import Maker
from mindspore_thor.layers.coverage import CoveredLayer
from mindspore_thor.layers.rows import Rows
from mindspore_thor.linalg.blocks import BlockLayout, BlockProduct
from mindspore_thor.linalg.inverse import INVERSE
from mindspore_thor.linalg.moments import block_moments, feature_sums
from mindspore_thor.methods.kronecker import (
    KroneckerCurvature,
    KroneckerLayout,
    factors_of,
    identity_blocks,
    per_block,
    repeated,
    smallest_damping,
    stack,
    trace,
)
from mindspore_thor.optim.averaged import AveragedStatistics

_SMALLEST_TRACE = 1e-30
"""Stands for the trace of a dead layer, whose moments are all zero."""


class WeightedMomentsRule(StatisticsRule):
    """Backward rule: means of |g|^2 a a^T and |a|^2 g g^T, then (1, T, N), as one vector.

    They are not normalised, so that their moving average is that of the expectations; both have
    the trace delta / T.

    Args:
        rows: the layer's geometry.
        homogeneous: whether a one is appended to a, so that it covers the bias.
        left: layout of g's dimension (one block).
        right: layout of a's dimension (one block).
    """

    def __init__(
        self, rows: Rows, homogeneous: bool, left: BlockLayout, right: BlockLayout
    ) -> None:
        super().__init__(rows, homogeneous)
        self.left = left
        self.right = right

    def construct(self, x: Tensor, out: Tensor, dout: Tensor, state: Tensor) -> Tensor:
        """X and the gradient of the layer's output -> statistics."""
        x, g, ones, count, meta = self.seen(x, dout)
        a = self.inputs(x, ones)
        size_a = SQRT(feature_sums(MUL(a, a)))
        size_g = SQRT(feature_sums(MUL(g, g)))
        phi = block_moments(MUL(a, size_g), self.right, count)
        psi = block_moments(MUL(g, size_a), self.left, count)
        return CONCAT0((phi.reshape(-1), psi.reshape(-1), meta))


def normalised_moments(
    statistics: Tensor, layout: KroneckerLayout
) -> tuple[Tensor, Tensor, Tensor]:
    """The traces delta = E[sum_t |g|^2 |a|^2] of the Fisher blocks, one per map: [n, 1, 1, 1].

    And Phi and Psi, the moments scaled to trace 1, [n, 1, d, d].
    """
    a, g, positions = factors_of(statistics, layout)
    positions = repeated(positions, a.shape[0])
    delta = MUL(trace(a), positions)
    scale = DIV(positions, MAXIMUM(delta, _SMALLEST_TRACE)).reshape((-1, 1, 1, 1))
    delta = delta.reshape((-1, 1, 1, 1))
    return delta, MUL(scale, a), MUL(scale, g)


class TraceFactors(KroneckerCurvature):
    """V = (sqrt(delta) Psi + sqrt(lam) I)^-1 D (sqrt(delta) Phi + sqrt(lam) I)^-1.

    Each factor gets sqrt(delta), so that their product has delta and lam. The inverses keep the lam
    that they were made with.

    Args:
        name: prefix of the parameters' names.
        layers: L.
        rows: the layers' geometry.
        homogeneous: whether the bias is part of the matrix.
        decay: weight of the old moments in the moving average; the first update overwrites.
    """

    solver = INVERSE

    def __init__(self, name: str, layers: int, rows: Rows, homogeneous: bool, decay: float) -> None:
        super().__init__(name, layers, rows, homogeneous, None, decay)
        self.token_parts = token_parts_of((self.end, SQUARES))
        maps = rows.groups
        self.product = BlockProduct(layers * maps, self.left, self.right)
        self.inverse_phi = state(identity_blocks(layers, maps, self.right), f"{name}.inverse_phi")
        self.inverse_psi = state(identity_blocks(layers, maps, self.left), f"{name}.inverse_psi")

    def make_rule(self, make: Maker, rows: Rows) -> nn.Cell:
        """Weighted second moments from one backward pass."""
        return make(WeightedMomentsRule, rows, self.homogeneous, self.left, self.right)

    def derived(self) -> tuple[Parameter, ...]:
        """Both inverses."""
        return self.inverse_phi, self.inverse_psi

    def delta(self) -> Tensor:
        """The trace of the Fisher block, per map [L, maps, 1, 1, 1]."""
        return self._of_layers(normalised_moments(self.statistics, self.layout)[0])

    def phi(self) -> Tensor:
        """Phi with trace 1, [L, maps, 1, d_in(+1), d_in(+1)]."""
        return self._of_layers(normalised_moments(self.statistics, self.layout)[1])

    def psi(self) -> Tensor:
        """Psi with trace 1, [L, maps, 1, d_out, d_out]."""
        return self._of_layers(normalised_moments(self.statistics, self.layout)[2])

    def _of_layers(self, per_map: Tensor) -> Tensor:
        return per_map.reshape((self.layers, -1, *per_map.shape[1:]))

    def problems(self, damping: Tensor) -> tuple[Tensor, ...]:
        """sqrt(delta) Phi and sqrt(delta) Psi, each with sqrt(lam), which has a floor."""
        moments = normalised_moments(self.statistics, self.layout)
        scale = SQRT(ITEM(moments, 0))
        phi = MUL(scale, ITEM(moments, 1))
        psi = MUL(scale, ITEM(moments, 2))
        root = SQRT(MAXIMUM(damping, smallest_damping(phi, trace(phi), psi, trace(psi))))
        return stack(phi), per_block(root, phi), stack(psi), per_block(root, psi)

    def install(
        self, good: Tensor, damping: Tensor, solutions: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Take both inverses; where one failed the last good ones of both stay."""
        return where_good(good, solutions, (self.inverse_phi, self.inverse_psi))

    def precondition(self, matrix: Tensor, damping: Tensor) -> Tensor:
        """The product with both stored inverses."""
        return self.product(self.inverse_psi, matrix, self.inverse_phi)


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
        rows = layers[0].linear
        return TraceFactors(name, len(layers), rows, self.homogeneous(layers[0]), self._decay)
