"""Preconditioning by inverted Kronecker factors: THOR (blocks, trace rule) and KFAC (whole)."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindspore_thor.curvature.base import state
from mindspore_thor.curvature.kronecker import KroneckerCurvature, identity_blocks, trace
from mindspore_thor.curvature.trace_rule import TraceRule
from mindspore_thor.linalg.blocks import apply_blocks
from mindspore_thor.linalg.inverse import damped_inverse


def factor_damping(
    mode: str, damping: Tensor, mean_a: Tensor, mean_g: Tensor
) -> tuple[Tensor, Tensor]:
    """Split a layer's damping x = lam / T into one value for A and one for G.

    ``"sqrt"`` adds sqrt(x) to both (MindSpore's THOR), ``"paper"`` adds x to both (THOR Eq. 6),
    ``"pi"`` adds sqrt(x) pi to A and sqrt(x) / pi to G with pi^2 = (trA/d_in) / (trG/d_out)
    (Martens & Grosse 2015).

    Args:
        mode: one of the three names.
        damping: x, scalar.
        mean_a: trA / d_in, per group or scalar.
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


class InverseFactors(KroneckerCurvature):
    """V = (1/T) (G + d_G I)^-1 D (A + d_A I)^-1 on diagonal blocks.

    Args:
        name: prefix of the parameters' names.
        rows: the layer's geometry.
        homogeneous: whether the bias is part of the matrix.
        split_dim: block size, or None for whole factors.
        decay: moving average of the factors, 0 for none.
        damping_mode: see :func:`factor_damping`.
        rule: the trace rule, or None where every refresh inverts.
    """

    def __init__(
        self,
        name: str,
        rows: nn.Cell,
        homogeneous: bool,
        split_dim: int | None,
        decay: float,
        damping_mode: str,
        rule: TraceRule | None = None,
    ) -> None:
        super().__init__(name, rows, homogeneous, split_dim, decay)
        self.damping_mode = damping_mode
        self.inverse_a = state(identity_blocks(rows.groups, self.right), f"{name}.inverse_a")
        self.inverse_g = state(identity_blocks(rows.groups, self.left), f"{name}.inverse_g")
        self.has_rule = rule is not None
        if rule is not None:
            self.rule = rule
            self.trace_baseline = state(np.full((), -1.0, np.float32), f"{name}.trace_baseline")

    def fisher_trace(self, damping: Tensor) -> Tensor:
        """tr(F + lam I) as the trace rule counts it (methods section 1.2)."""
        trace_a, trace_g = trace(self.factor_a()), trace(self.factor_g())
        d_in, d_out = self.right.dim, self.left.dim
        return self.rule.total(trace_a, trace_g, self.positions(), damping, d_in, d_out)

    def refresh(self, damping: Tensor) -> None:
        """Invert the factors, or keep the old inverses where the trace rule says so."""
        if not self.has_rule:
            self.derive(damping)
        else:
            candidate = self.fisher_trace(damping)
            decision = self.rule.decide(candidate, self.trace_baseline) * self.active
            if decision > 0:
                self.derive(damping)
            else:
                self.keep(candidate, decision)

    def keep(self, candidate: Tensor, decision: Tensor) -> None:
        """Leave the inverse bit-identical; a decision below zero stops the layer for good."""
        if self.rule.against_previous:
            ops.assign(self.trace_baseline, candidate)
        self.count(0, self.active, 0)
        ops.assign(self.active, self.active * ops.cast(decision == 0, ms.int32))

    def derive(self, damping: Tensor) -> None:
        """Invert both factors; where one fails the last good inverses of both stay."""
        positions = self.positions()
        a, g = self.factor_a(), self.factor_g()
        mean_a = trace(a) / self.right.dim
        mean_g = trace(g) / self.left.dim
        damping_a, damping_g = factor_damping(
            self.damping_mode, damping / positions, mean_a, mean_g
        )
        if self.damping_mode == "pi":
            damping_a = ops.tile(damping_a.reshape((-1, 1)), (1, self.right.blocks)).reshape(
                (-1, 1, 1)
            )
            damping_g = ops.tile(damping_g.reshape((-1, 1)), (1, self.left.blocks)).reshape(
                (-1, 1, 1)
            )
        inverse_a, ok_a = damped_inverse(a, damping_a)
        inverse_g, ok_g = damped_inverse(g, damping_g)
        ok = ops.logical_and(ok_a, ok_g)
        # The 1/T of the convolution rule is folded into one factor: it costs nothing later.
        ops.assign(self.inverse_a, ops.where(ok, inverse_a / positions, self.inverse_a))
        ops.assign(self.inverse_g, ops.where(ok, inverse_g, self.inverse_g))
        if self.has_rule:
            # Only a factor whose inverse is in use is an accepted one.
            candidate = self.fisher_trace(damping)
            ops.assign(self.trace_baseline, ops.where(ok, candidate, self.trace_baseline))
        done = ops.cast(ok, ms.int32)
        self.count(done, 0, 1 - done)

    def precondition(self, matrix: Tensor, damping: Tensor) -> Tensor:
        """G^-1 D A^-1 with the stored inverses (and the damping that they were made with)."""
        return apply_blocks(self.inverse_g, matrix, self.inverse_a, self.left, self.right)
