"""Preconditioning by inverted Kronecker factors: THOR (blocks, trace rule) and KFAC (whole)."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindspore_thor.curvature.group import state, updated_counts, where_good
from mindspore_thor.linalg.blocks import BlockProduct
from mindspore_thor.linalg.inverse import INVERSE
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
from mindspore_thor.methods.trace_rule import TraceRule


def factor_damping(
    mode: str, damping: Tensor, mean_a: Tensor, mean_g: Tensor
) -> tuple[Tensor, Tensor]:
    """Split a layer's damping x = lam / T into one value for A and one for G.

    ``"sqrt"`` adds sqrt(x) to both (MindSpore's THOR), ``"paper"`` adds x to both (THOR Eq. 6),
    ``"pi"`` adds sqrt(x) pi to A and sqrt(x) / pi to G with pi^2 = (trA/d_in) / (trG/d_out)
    (Martens & Grosse 2015).

    Args:
        mode: one of the three names.
        damping: x, one per map.
        mean_a: trA / d_in, one per map or a scalar.
        mean_g: trG / d_out, likewise.

    Returns:
        Damping for A and for G.
    """
    if mode == "paper":
        return damping, damping
    root = ops.sqrt(damping)
    if mode == "sqrt":
        return root, root
    # A factor of zeros (a dead layer) must not turn pi into 0/0.
    pi = ops.sqrt(ops.maximum(mean_a, 1e-12) / ops.maximum(mean_g, 1e-12))
    return root * pi, root / pi


def damped_factors(
    statistics: Tensor, layout: KroneckerLayout, mode: str, damping: Tensor
) -> tuple[Tensor, ...]:
    """The blocks of A [n, d, d], their damping [n], and the same of G.

    The product of the two dampings, x or in the mode ``"paper"`` its square, has a floor.
    """
    a, g, positions = factors_of(statistics, layout)
    mean_a, mean_g = damping, damping
    if mode == "pi":
        mean_a, mean_g = trace(a) / layout.right.dim, trace(g) / layout.left.dim
    floor = smallest_damping(a, g)
    if mode == "paper":
        floor = ops.sqrt(floor)
    share = ops.maximum(repeated(damping / positions, a.shape[0]), floor)
    damping_a, damping_g = factor_damping(mode, share, mean_a, mean_g)
    return stack(a), per_block(damping_a, a), stack(g), per_block(damping_g, g)


class InverseFactors(KroneckerCurvature):
    """V = (1/T) (G + d_G I)^-1 D (A + d_A I)^-1 on diagonal blocks.

    Args:
        name: prefix of the parameters' names.
        layers: L.
        rows: the layers' geometry.
        homogeneous: whether the bias is part of the matrix.
        split_dim: block size, or None for whole factors.
        decay: moving average of the factors, 0 for none.
        damping_mode: see :func:`factor_damping`.
        rule: the trace rule, or None where every refresh inverts.
    """

    solver = INVERSE

    def __init__(
        self,
        name: str,
        layers: int,
        rows: nn.Cell,
        homogeneous: bool,
        split_dim: int | None,
        decay: float,
        damping_mode: str,
        rule: TraceRule | None = None,
    ) -> None:
        super().__init__(name, layers, rows, homogeneous, split_dim, decay)
        self.damping_mode = damping_mode
        maps = rows.groups
        self.product = BlockProduct(layers * maps, self.left, self.right)
        self.inverse_a = state(identity_blocks(layers, maps, self.right), f"{name}.inverse_a")
        self.inverse_g = state(identity_blocks(layers, maps, self.left), f"{name}.inverse_g")
        self.selective = rule is not None
        if rule is not None:
            self.rule = rule
            self.stops = rule.w2 > 0
            baseline = np.full((layers,), -1.0, np.float32)
            self.trace_baseline = state(baseline, f"{name}.trace_baseline")

    def derived(self) -> tuple[Parameter, ...]:
        """Both inverses."""
        return self.inverse_a, self.inverse_g

    def counters(self) -> tuple[Parameter, ...]:
        """The counters, and what the trace rule remembers."""
        if not self.selective:
            return (self.counts,)
        return self.counts, self.active, self.trace_baseline

    def decide(self, damping: Tensor) -> tuple[Tensor, Tensor]:
        """What the trace rule says, and the traces tr(F + lam I) that it judged (section 1.2)."""
        wanted = ops.cast(self.has_statistics(), ms.int32).reshape((-1,))
        if not self.selective:
            return wanted, wanted
        layout = self.layout
        a, g, positions = factors_of(self.statistics, layout)
        shape = (self.layers, self.rows.groups)
        candidate = self.rule.total(
            trace(a).reshape(shape),
            trace(g).reshape(shape),
            positions,
            damping,
            layout.right.dim,
            layout.left.dim,
        )
        decision = self.rule.decide(candidate, self.trace_baseline)
        return decision * self.active * wanted, candidate

    def problems(self, damping: Tensor) -> tuple[Tensor, ...]:
        """The blocks of A and of G with each factor's damping."""
        return damped_factors(self.statistics, self.layout, self.damping_mode, damping)

    def install(
        self, good: Tensor, damping: Tensor, solutions: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Take both inverses; where one failed the last good ones of both stay."""
        # The 1/T of the convolution rule is folded into one factor: it costs nothing later.
        positions = factors_of(self.statistics, self.layout)[2]
        share = repeated(positions, solutions[0].shape[0]).reshape((-1, 1, 1))
        values = (solutions[0] / share, solutions[1])
        return where_good(good, values, (self.inverse_a, self.inverse_g))

    def settle(
        self, decision: Tensor, sound: Tensor, candidate: Tensor, again: bool
    ) -> tuple[Tensor, ...]:
        """Count; a decision below zero stops a layer for good."""
        counts = updated_counts(self.counts, self.active, decision, sound, again)
        if not self.selective:
            return (counts,)
        # Only a factor whose inverse is in use is an accepted one.
        replaced = decision * sound > 0
        if self.rule.against_previous and not again:
            seen = self.has_statistics().reshape((-1,))
            replaced = ops.logical_or(replaced, ops.logical_and(decision <= 0, seen))
        active = self.active * ops.cast(decision >= 0, ms.int32)
        return counts, active, ops.where(replaced, candidate, self.trace_baseline)

    def precondition(self, matrix: Tensor, damping: Tensor) -> Tensor:
        """G^-1 D A^-1 with the stored inverses (and the damping that they were made with)."""
        return self.product(self.inverse_g, matrix, self.inverse_a)
