"""Inverses of symmetric positive definite matrices by matrix products alone.

Newton's iteration X <- X + X (I - M X) (Schulz 1933) squares the residual in every step: with
X_0 = I / b and b >= lambda_max all eigenvalues of I - M X_0 lie in [0, 1 - lambda_min / b], so
k steps leave (1 - lambda_min / b)^(2^k). Products are what a matrix unit is for; an LU
decomposition, being sequential, is not.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

from mindspore_thor.linalg.sums import MAX, SUM

STEPS = 24
"""Enough for b / lambda_min = 1e6, at which float32 has lost its digits anyway."""

_TINY = 1e-30


def newton_schulz(matrices: Tensor, steps: int = STEPS) -> Tensor:
    """Inverses of symmetric positive definite matrices.

    The result is not exactly symmetric: forcing that in every step would lose as many digits as
    the condition number has. Nothing is raised: what is not positive definite, or too ill
    conditioned, gives matrices whose residual I - M X is large or not finite.

    Args:
        matrices: M, float32 [n, d, d].
        steps: iterations, of two batched products each.

    Returns:
        M^-1, float32 [n, d, d].
    """
    d = matrices.shape[-1]
    eye = ops.eye(d, d, ms.float32)
    # A unit diagonal is within a factor of d the best conditioned scaling (van der Sluis 1969).
    # The root of a negative entry is NaN, which tells what is not positive definite.
    root = ops.sqrt(SUM(matrices * eye, 2))
    scale = 1.0 / ops.maximum(root, _TINY)
    scaled = matrices * scale.expand_dims(2) * scale.expand_dims(1)
    # Two bounds of the largest eigenvalue.
    row_sum = MAX(SUM(ops.abs(scaled), 2), 1)
    frobenius = ops.sqrt(SUM(scaled * scaled, (1, 2)))
    x = eye / ops.minimum(row_sum, frobenius).reshape((-1, 1, 1))
    for _ in range(steps):
        x = x + ops.bmm(x, eye - ops.bmm(scaled, x))
    return x * scale.expand_dims(2) * scale.expand_dims(1)
