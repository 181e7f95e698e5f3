"""KFAC in the eigenbasis: exact for A (x) G + lam I, and the damping may change every step."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindspore_thor.curvature.base import state
from mindspore_thor.curvature.kronecker import KroneckerCurvature
from mindspore_thor.linalg.inverse import eigen_decomposition


class EigenFactors(KroneckerCurvature):
    """V = Qg [(Qg^T D Qa) / (T dg da^T + lam)] Qa^T (methods section 4).

    Args:
        name: prefix of the parameters' names.
        rows: the layer's geometry.
        homogeneous: whether the bias is part of the matrix.
        decay: moving average of the factors, 0 for none.
        extra: further statistics of a subclass.
    """

    def __init__(
        self, name: str, rows: nn.Cell, homogeneous: bool, decay: float, extra: int = 0
    ) -> None:
        super().__init__(name, rows, homogeneous, None, decay, extra)
        groups, d_in, d_out = rows.groups, self.right.dim, self.left.dim

        def eye(d: int) -> np.ndarray:
            return np.broadcast_to(np.eye(d, dtype=np.float32), (groups, d, d)).copy()

        self.vectors_a = state(eye(d_in), f"{name}.vectors_a")
        self.vectors_g = state(eye(d_out), f"{name}.vectors_g")
        self.values_a = state(np.zeros((groups, d_in), np.float32), f"{name}.values_a")
        self.values_g = state(np.zeros((groups, d_out), np.float32), f"{name}.values_g")

    def derive(self, damping: Tensor) -> None:
        """Decompose both factors; a failed decomposition keeps the last good one."""
        # The decomposition must not see a NaN: the iteration behind it need not end then.
        if ops.isfinite(ops.reduce_sum(self.statistics)):
            self.decompose()
        else:
            self.count(0, 0, 1)

    def decompose(self) -> None:
        """Eigenvalues and eigenvectors of both factors, stored where both are sound."""
        groups, d_in, d_out = self.rows.groups, self.right.dim, self.left.dim
        values_a, vectors_a, ok_a = eigen_decomposition(
            self.factor_a().reshape((groups, d_in, d_in))
        )
        values_g, vectors_g, ok_g = eigen_decomposition(
            self.factor_g().reshape((groups, d_out, d_out))
        )
        ok = ops.logical_and(ok_a, ok_g)
        ops.assign(self.vectors_a, ops.where(ok, vectors_a, self.vectors_a))
        ops.assign(self.vectors_g, ops.where(ok, vectors_g, self.vectors_g))
        ops.assign(self.values_a, ops.where(ok, values_a * self.positions(), self.values_a))
        ops.assign(self.values_g, ops.where(ok, values_g, self.values_g))
        self.settle(ok)

    def settle(self, ok: Tensor) -> None:
        """Count a decomposition that is stored (or not, where ``ok`` is false)."""
        done = ops.cast(ok, ms.int32)
        self.count(done, 0, 1 - done)

    def precondition(self, matrix: Tensor, damping: Tensor) -> Tensor:
        """Divide by T dg da^T + lam in the eigenbasis; lam is this step's."""
        q_a, q_g = self.vectors_a, self.vectors_g
        inner = ops.bmm(ops.bmm(q_g.transpose((0, 2, 1)), matrix), q_a)
        inner = inner / (self.values_g.expand_dims(2) * self.values_a.expand_dims(1) + damping)
        return ops.bmm(ops.bmm(q_g, inner), q_a.transpose((0, 2, 1)))
