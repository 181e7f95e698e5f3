"""EKFAC: the exact second moments of the gradient in KFAC's eigenbasis (George et al. 2018).

With A = Qa da Qa^T and G = Qg dg Qg^T, the diagonal of the Fisher block in the basis Qa (x) Qg is
S = E[(Qg^T g a^T Qa)^2], taken per sample after the sum over positions; KFAC has T dg da^T instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindspore_thor.capture.input_moments import InputMoments
from mindspore_thor.capture.rule import StatisticsRule
from mindspore_thor.curvature.group import FACTORS, META, SPECTRUM, GroupCurvature, where_good
from mindspore_thor.curvature.state import state
from mindspore_thor.curvature.tokens import projected_factor
from mindspore_thor.graph.operators import (
    ADD,
    ASSIGN,
    CAST,
    CONCAT0,
    CONCAT1,
    EQUAL,
    ITEM,
    LESS_EQUAL,
    MUL,
    NOT_EQUAL,
    ONES_LIKE,
    OR,
    SELECT,
    SUB,
)
from mindspore_thor.graph.shared import Maker
from mindspore_thor.graph.slices import part, part_or_all
from mindspore_thor.layers.coverage import CoveredLayer
from mindspore_thor.layers.rows import Rows
from mindspore_thor.linalg.blocks import BlockLayout
from mindspore_thor.linalg.moments import block_moments, projected_squares
from mindspore_thor.linalg.sums import MAX_KEPT
from mindspore_thor.methods.kfac import EigenFactors, eigen_parts
from mindspore_thor.optim.averaged import AveragedStatistics


class CorrectedRule(StatisticsRule):
    """Backward rule: A and G, then S in the current basis, then (1, T, N), as one float32 vector.

    What the step does not collect is zero, and not computed.

    Args:
        rows: the layer's geometry.
        homogeneous: whether a one is appended to a, so that A covers the bias.
        left: layout of g's dimension (one block).
        right: layout of a's dimension (one block).
    """

    def __init__(
        self, rows: Rows, homogeneous: bool, left: BlockLayout, right: BlockLayout
    ) -> None:
        super().__init__(rows, homogeneous)
        self.left = left
        self.right = right
        self.input_moments = InputMoments(rows, homogeneous, right)
        d_in, d_out = right.dim, left.dim
        self.factor_length = rows.groups * (d_in * d_in + d_out * d_out)
        self.spectrum_length = rows.groups * d_in * d_out

    def construct(self, x: Tensor, out: Tensor, dout: Tensor, state: Tensor) -> Tensor:
        """X, the gradient of the layer's output and (Qa, Qg, due) -> statistics."""
        groups, d_in, d_out = self.rows.groups, self.right.dim, self.left.dim
        end_a, end = groups * d_in * d_in, self.factor_length
        vectors_a = part(state, 0, end_a).reshape((groups, d_in, d_in))
        vectors_g = part(state, end_a, end - end_a).reshape((groups, d_out, d_out))
        due = part(state, end, 1).reshape(())
        x, g, ones, count, meta = self.seen(x, dout)
        factors = self.factors(x, g, ones, count, due)
        spectrum = self.spectrum(x, g, ones, count, due, vectors_a, vectors_g)
        return ops.concat((factors, spectrum, meta))

    def factors(self, x: Tensor, g: Tensor, ones: Tensor | None, count: int, due: Tensor) -> Tensor:
        """A and G, flat."""
        if due != SPECTRUM:
            moments_a = self.input_moments(x, ones, count).reshape(-1)
            moments_g = block_moments(g, self.left, count).reshape(-1)
            result = ops.concat((moments_a, moments_g))
        else:
            result = ops.zeros((self.factor_length,), ms.float32)
        return result

    def spectrum(
        self,
        x: Tensor,
        g: Tensor,
        ones: Tensor | None,
        count: int,
        due: Tensor,
        vectors_a: Tensor,
        vectors_g: Tensor,
    ) -> Tensor:
        """S, flat."""
        if due != FACTORS:
            a = self.inputs(x, ones)
            result = projected_squares(a, g, vectors_a, vectors_g, count).reshape(-1)
        else:
            result = ops.zeros((self.spectrum_length,), ms.float32)
        return result


class CorrectedFactors(EigenFactors):
    """V = Qg [(Qg^T D Qa) / (S + lam)] Qa^T with S measured in the stored basis.

    A new basis makes the stored S meaningless: it is replaced by KFAC's T dg da^T until the first
    measurement in the new basis, which overwrites. Within one basis S is averaged like A and G.

    Args:
        name: prefix of the parameters' names.
        layers: L.
        rows: the layers' geometry.
        homogeneous: whether the bias is part of the matrix.
        decay: weight of the old A, G and S in their moving averages.
        due: int32 parameter, what this step collects (FACTORS, SPECTRUM or both).
    """

    def __init__(
        self,
        name: str,
        layers: int,
        rows: Rows,
        homogeneous: bool,
        decay: float,
        due: Tensor,
    ) -> None:
        self.shape = (rows.groups, rows.d_out, rows.d_in + int(homogeneous))
        super().__init__(name, layers, rows, homogeneous, decay, int(np.prod(self.shape)))
        self.due = due
        self.provisional = state(np.ones((layers, 1), np.int32), f"{name}.provisional")

    def make_rule(self, make: Maker, rows: Rows) -> nn.Cell:
        """A, G and S from one backward pass."""
        return make(CorrectedRule, rows, self.homogeneous, self.left, self.right)

    def capture_state(self, layer: int, flag: Tensor) -> Tensor:
        """The layer's Qa and Qg, then what to collect, in one vector."""
        due = CAST(self.due, ms.float32).reshape(1)
        vectors_a = part_or_all(self.vectors_a, layer, 1)
        vectors_g = part_or_all(self.vectors_g, layer, 1)
        return CONCAT0((vectors_a.reshape(-1), vectors_g.reshape(-1), due))

    def spectrum(self) -> Tensor:
        """S, [L, maps, d_out, d_in(+1)]."""
        return self.measured(self.statistics).reshape((self.layers, *self.shape))

    def largest(self, spectrum: Tensor) -> Tensor:
        """The largest entries of S, [L, maps, 1, 1]."""
        # One axis at a time: MindSpore's CPU kernels are slow with several.
        return MAX_KEPT(MAX_KEPT(spectrum, 3), 2)

    def unresolved(self, spectrum: Tensor, largest: Tensor) -> Tensor:
        """Where S cannot be told from the squares of rounding errors, or the factors from zero."""
        # A second moment is a square, and so is what rounding makes of one that is zero.
        zero = LESS_EQUAL(spectrum, MUL(largest, self.resolved_a * self.resolved_g))
        return OR(super().unresolved(spectrum, largest), zero)

    def gradient_part(self) -> tuple[int, int]:
        """G and S: a step collects one or both."""
        return self.end_a, self.end - self.end_a

    def measured(self, statistics: Tensor) -> Tensor:
        """S of statistics [L, size], flat: [L, maps * d_out * d_in(+1)]."""
        return part(statistics, self.end_g, self.end - self.end_g, 1)

    def collect(self, fresh: Tensor) -> bool:
        """Let those of A, G and S enter that this step has collected."""
        used = self.entering(fresh)
        mean = self.averaged(fresh)
        old = self.statistics
        collected = CAST(NOT_EQUAL(self.due, SPECTRUM), ms.float32)
        measured = CAST(NOT_EQUAL(self.due, FACTORS), ms.float32)
        entering = MUL(collected, SUB(1.0, self.kept_weight()))
        # Sums over positions do not stop at one use: those of several uses add up.
        spectrum = self.measured(fresh)
        if self.token_mode != "":
            uses, rows = self.uses(fresh), part(fresh, self.end + 1, 1, 1)
            spectrum = MUL(spectrum, projected_factor(self.token_mode, uses, rows))
        settled = CAST(EQUAL(self.provisional, 0), ms.float32)
        change = MUL(measured, SUB(1.0, MUL(settled, self.decay)))
        blended = CONCAT1(
            (
                _blend(part(old, 0, self.end_g, 1), part(mean, 0, self.end_g, 1), entering),
                _blend(self.measured(old), spectrum, change),
                _blend(part(old, self.end, META, 1), part(mean, self.end, META, 1), entering),
            )
        )
        provisional = MUL(self.provisional, CAST(EQUAL(measured, 0.0), ms.int32))
        ASSIGN(self.provisional, SELECT(used, provisional, self.provisional))
        ASSIGN(self.statistics, SELECT(used, blended, old))
        return True

    def derived(self) -> tuple[Parameter, ...]:
        """Both eigenbases, and what holds S."""
        return (*super().derived(), self.statistics, self.provisional)

    def install(
        self, good: Tensor, damping: Tensor, solutions: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Take the new basis; in it KFAC's eigenvalues T dg da^T stand in for S."""
        parts = eigen_parts(solutions, self.positions())
        values = MUL(ITEM(parts, 3).expand_dims(2), ITEM(parts, 2).expand_dims(1))
        head = part(self.statistics, 0, self.end_g, 1)
        tail = part(self.statistics, self.end, META, 1)
        stand_in = CONCAT1((head, values.reshape((self.layers, -1)), tail))
        one = ONES_LIKE(self.provisional)
        stored = (self.vectors_a, self.vectors_g, self.values_a, self.values_g)
        return where_good(
            good, (*parts, stand_in, one), (*stored, self.statistics, self.provisional)
        )


def _blend(old: Tensor, new: Tensor, weight: Tensor) -> Tensor:
    """(1 - weight) * old + weight * new."""
    return ADD(MUL(SUB(1.0, weight), old), MUL(weight, new))


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
        rows = layers[0].linear
        return CorrectedFactors(
            name, len(layers), rows, self.homogeneous(layers[0]), self._decay, self.due
        )
