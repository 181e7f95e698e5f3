"""TKFAC: Kronecker factors that keep the Fisher block's trace (Gao et al. 2021, methods section 4).

F ~= delta Phi (x) Psi with delta = E[sum_t |g|^2 |a|^2], Phi = E[sum_t |g|^2 a a^T] / delta and
Psi = E[sum_t |a|^2 g g^T] / delta, so tr Phi = tr Psi = 1 and tr F = delta (exact for one position,
and otherwise as far as positions are independent).
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindspore_thor.curvature.base import state
from mindspore_thor.curvature.kronecker import KroneckerCurvature, identity_blocks, trace
from mindspore_thor.linalg.blocks import BlockLayout, apply_blocks
from mindspore_thor.linalg.inverse import damped_inverse
from mindspore_thor.linalg.moments import block_moments, with_ones

_SMALLEST_TRACE = 1e-30
"""Stands for the trace of a dead layer, whose moments are all zero."""


class WeightedMomentsRule(nn.Cell):
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
        self, rows: nn.Cell, homogeneous: bool, left: BlockLayout, right: BlockLayout
    ) -> None:
        super().__init__()
        self.rows = rows
        self.homogeneous = homogeneous
        self.left = left
        self.right = right

    def construct(self, x: Tensor, out: Tensor, dout: Tensor, state: Tensor) -> Tensor:
        """X and the gradient of the layer's output -> statistics."""
        a = self.rows.input_columns(ops.cast(x, ms.float32))
        if self.homogeneous:
            a = with_ones(a)
        g = self.rows.output_columns(dout)
        size_a = ops.sqrt((a * a).sum(2, keepdims=True))
        size_g = ops.sqrt((g * g).sum(2, keepdims=True))
        phi = block_moments(a * size_g, self.right)
        psi = block_moments(g * size_a, self.left)
        meta = Tensor([1.0, self.rows.positions(dout), self.rows.samples(x)], ms.float32)
        return ops.concat((phi.reshape(-1), psi.reshape(-1), meta))


class TraceFactors(KroneckerCurvature):
    """V = (sqrt(delta) Psi + sqrt(lam) I)^-1 D (sqrt(delta) Phi + sqrt(lam) I)^-1.

    Each factor gets sqrt(delta), so that their product has delta and lam. The inverses keep the lam
    that they were made with.

    Args:
        name: prefix of the parameters' names.
        rows: the layer's geometry.
        homogeneous: whether the bias is part of the matrix.
        decay: weight of the old moments in the moving average; the first update overwrites.
    """

    def __init__(self, name: str, rows: nn.Cell, homogeneous: bool, decay: float) -> None:
        super().__init__(name, rows, homogeneous, None, decay)
        self.inverse_phi = state(identity_blocks(rows.groups, self.right), f"{name}.inverse_phi")
        self.inverse_psi = state(identity_blocks(rows.groups, self.left), f"{name}.inverse_psi")

    def make_rule(self) -> nn.Cell:
        """Weighted second moments from one backward pass."""
        return WeightedMomentsRule(self.rows, self.homogeneous, self.left, self.right)

    def delta(self) -> Tensor:
        """E[sum_t |g|^2 |a|^2], the trace of the Fisher block, per group [groups, 1, 1, 1]."""
        return (trace(self.factor_a()) * self.positions()).reshape((-1, 1, 1, 1))

    def phi(self) -> Tensor:
        """Phi with trace 1, [groups, 1, d_in(+1), d_in(+1)]."""
        return self.factor_a() * self.positions() / ops.maximum(self.delta(), _SMALLEST_TRACE)

    def psi(self) -> Tensor:
        """Psi with trace 1, [groups, 1, d_out, d_out]."""
        return self.factor_g() * self.positions() / ops.maximum(self.delta(), _SMALLEST_TRACE)

    def derive(self, damping: Tensor) -> None:
        """Invert both factors; where one fails the last good inverses of both stay."""
        scale = ops.sqrt(self.delta())
        root = ops.sqrt(damping)
        inverse_phi, ok_phi = damped_inverse(scale * self.phi(), root)
        inverse_psi, ok_psi = damped_inverse(scale * self.psi(), root)
        ok = ops.logical_and(ok_phi, ok_psi)
        ops.assign(self.inverse_phi, ops.where(ok, inverse_phi, self.inverse_phi))
        ops.assign(self.inverse_psi, ops.where(ok, inverse_psi, self.inverse_psi))
        done = ops.cast(ok, ms.int32)
        self.count(done, 0, 1 - done)

    def precondition(self, matrix: Tensor, damping: Tensor) -> Tensor:
        """The product with both stored inverses."""
        return apply_blocks(self.inverse_psi, matrix, self.inverse_phi, self.left, self.right)
