"""KFAC in the eigenbasis: exact for A (x) G + lam I, and the damping may change every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindspore_thor.curvature.group import GroupCurvature, where_good
from mindspore_thor.curvature.state import state
from mindspore_thor.graph.operators import ADD, BMM, DIV, ITEM, LESS_EQUAL, MAXIMUM, MUL, OR
from mindspore_thor.graph.slices import part
from mindspore_thor.layers.coverage import CoveredLayer
from mindspore_thor.layers.rows import Rows
from mindspore_thor.linalg.inverse import EIGEN, ROUNDING
from mindspore_thor.linalg.sums import MAX_KEPT
from mindspore_thor.methods.inverse_factors import InverseFactors
from mindspore_thor.methods.kronecker import (
    KroneckerCurvature,
    factors_of,
    per_block,
    repeated,
    stack,
)
from mindspore_thor.methods.thor import DAMPING_MODES
from mindspore_thor.optim.averaged import AveragedStatistics
from mindspore_thor.optim.base import Schedule
from mindspore_thor.optim.checks import check_choice
from mindspore_thor.optim.intervals import IntervalLike

SMALLEST_DAMPING = 1e-5
"""As a share of the largest eigenvalue, where float32 sees no eigenvalue.

Chosen: rounding leaves some 1e-7 of the gradient in such a direction, so that it makes up about a
hundredth of the shortest step that the curvature can ask for.
"""

# A transposition of its own is a copy, which takes longer than the product with a large basis.
_TRANSPOSED_FIRST = ops.BatchMatMul(transpose_a=True)
_TRANSPOSED_SECOND = ops.BatchMatMul(transpose_b=True)


def resolved(d: int) -> float:
    """The smallest eigenvalue of a d x d factor that float32 can tell, as a share of the largest.

    Chosen: what the decomposition makes of zeros is up to 1 times the rounding for small factors,
    4 times for d = 1500.
    """
    return ROUNDING * max(4.0, d**0.5)


def _faint(values: Tensor, share: float) -> Tensor:
    """Which eigenvalues [L, maps, d] are at most that share of their factor's largest."""
    return LESS_EQUAL(values, MUL(MAX_KEPT(values, 2), share))


def eigen_parts(solutions: tuple[Tensor, ...], positions: Tensor) -> tuple[Tensor, ...]:
    """Eigenvectors of A and G, eigenvalues T da and dg; ``positions`` are T, [L]."""
    a, g = ITEM(solutions, 0), ITEM(solutions, 1)
    vectors_a = part(a, 1, a.shape[1], 2)
    vectors_g = part(g, 1, g.shape[1], 2)
    values_a = part(a, 0, 1, 2).reshape(a.shape[:2])
    values_g = part(g, 0, 1, 2).reshape(g.shape[:2])
    share = repeated(positions, values_a.shape[0]).reshape((-1, 1))
    return vectors_a, vectors_g, MUL(values_a, share), values_g


class EigenFactors(KroneckerCurvature):
    """V = Qg [(Qg^T D Qa) / (T dg da^T + lam)] Qa^T (methods section 4).

    In directions whose eigenvalue float32 cannot tell from zero the divisor is at least
    :data:`SMALLEST_DAMPING` of the largest: a smaller lam would only make rounding errors large.

    Args:
        name: prefix of the parameters' names.
        layers: L.
        rows: the layers' geometry.
        homogeneous: whether the bias is part of the matrix.
        decay: moving average of the factors, 0 for none.
        extra: further statistics of a subclass.
    """

    solver = EIGEN
    starts_plain = False

    def __init__(
        self,
        name: str,
        layers: int,
        rows: Rows,
        homogeneous: bool,
        decay: float,
        extra: int = 0,
    ) -> None:
        super().__init__(name, layers, rows, homogeneous, None, decay, extra)
        shape, d_in, d_out = (layers, rows.groups), self.right.dim, self.left.dim

        def eye(d: int) -> np.ndarray:
            return np.broadcast_to(np.eye(d, dtype=np.float32), (*shape, d, d)).copy()

        self.resolved_a, self.resolved_g = resolved(d_in), resolved(d_out)
        self.vectors_a = state(eye(d_in), f"{name}.vectors_a")
        self.vectors_g = state(eye(d_out), f"{name}.vectors_g")
        self.values_a = state(np.zeros((*shape, d_in), np.float32), f"{name}.values_a")
        self.values_g = state(np.zeros((*shape, d_out), np.float32), f"{name}.values_g")

    def derived(self) -> tuple[Parameter, ...]:
        """Both eigenbases."""
        return self.vectors_a, self.vectors_g, self.values_a, self.values_g

    def problems(self, damping: Tensor) -> tuple[Tensor, ...]:
        """Both factors; the damping waits for the step that uses them."""
        factors = factors_of(self.statistics, self.layout)
        a, g = ITEM(factors, 0), ITEM(factors, 1)
        return stack(a), per_block(damping, a), stack(g), per_block(damping, g)

    def install(
        self, good: Tensor, damping: Tensor, solutions: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Take both decompositions; where one failed the last good ones of both stay."""
        stored = (self.vectors_a, self.vectors_g, self.values_a, self.values_g)
        return where_good(good, eigen_parts(solutions, self.positions()), stored)

    def spectrum(self) -> Tensor:
        """T dg da^T, [L, maps, d_out, d_in(+1)]."""
        return MUL(self.values_g.expand_dims(3), self.values_a.expand_dims(2))

    def largest(self, spectrum: Tensor) -> Tensor:
        """The largest entries of the spectrum, [L, maps, 1, 1]: here those of its two vectors."""
        values = MUL(MAX_KEPT(self.values_g, 2), MAX_KEPT(self.values_a, 2))
        return values.expand_dims(3)

    def unresolved(self, spectrum: Tensor, largest: Tensor) -> Tensor:
        """Which entries of the spectrum are zero for all that float32 can tell, boolean.

        Args:
            spectrum: see :meth:`spectrum`.
            largest: its largest entries, [L, maps, 1, 1].
        """
        faint_a = _faint(self.values_a, self.resolved_a).expand_dims(2)
        return OR(_faint(self.values_g, self.resolved_g).expand_dims(3), faint_a)

    def precondition(self, matrix: Tensor, damping: Tensor) -> Tensor:
        """Divide by the spectrum + lam in the eigenbasis; lam is this step's."""
        d_in, d_out = self.right.dim, self.left.dim
        q_a = self.vectors_a.reshape((-1, d_in, d_in))
        q_g = self.vectors_g.reshape((-1, d_out, d_out))
        inner = BMM(_TRANSPOSED_FIRST(q_g, matrix), q_a)
        spectrum = self.spectrum()
        largest = self.largest(spectrum)
        floor = ops.where(self.unresolved(spectrum, largest), SMALLEST_DAMPING * largest, 0.0)
        divisor = MAXIMUM(ADD(spectrum, damping), floor)
        inner = DIV(inner, divisor.reshape(inner.shape))
        return BMM(q_g, _TRANSPOSED_SECOND(inner, q_a))


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
        rows = layers[0].linear
        homogeneous = self.homogeneous(layers[0])
        if self._method == "eigen":
            return EigenFactors(name, len(layers), rows, homogeneous, self._decay)
        return InverseFactors(
            name, len(layers), rows, homogeneous, None, self._decay, self._damping_mode
        )
