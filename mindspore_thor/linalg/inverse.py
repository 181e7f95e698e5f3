"""Damped inverses and eigendecompositions that say whether they succeeded.

Every function runs inside a compiled graph and returns ``ok`` (a boolean scalar) instead of
raising: a failed factor must not end a long training run. A device that needs another operator
gets it here.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops
from mindspore.scipy.linalg import eigh as _eigh

RESIDUAL_LIMIT = 1e-2
"""Largest accepted entry of ``|M M^-1 - I|``: beyond it a float32 inverse has lost all meaning."""

EIGENVALUE_FLOOR = 1e-7
"""Smallest eigenvalue of a root as a share of the largest one: float32 resolves nothing below."""


def identity_like(matrices: Tensor) -> Tensor:
    """The float32 identity of the matrices' last axis, [d, d]."""
    d = matrices.shape[-1]
    return ops.eye(d, d, ms.float32)


def damped_inverse(matrices: Tensor, damping: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of ``matrices + damping I``.

    Args:
        matrices: float32 symmetric positive semi-definite [..., d, d].
        damping: scalar, in the matrices' unit.

    Returns:
        The symmetric inverse [..., d, d], and whether every entry is finite and
        ``|M M^-1 - I|`` stays below :data:`RESIDUAL_LIMIT`.
    """
    shape = matrices.shape
    d = shape[-1]
    eye = identity_like(matrices)
    damped = matrices.reshape((-1, d, d)) + damping * eye
    # LU, not Cholesky: MindSpore's CPU Cholesky raises on an indefinite matrix, which would end the
    # run, and Ascend has no Cholesky kernel at all.
    # It rejects 1 x 1 matrices, though.
    inverse = 1.0 / damped if d == 1 else ops.inverse(damped)
    inverse = 0.5 * (inverse + inverse.transpose((0, 2, 1)))
    residual = ops.bmm(damped, inverse) - eye
    # A comparison with NaN is false, so a non-finite matrix is caught here too.
    ok = ops.reduce_max(ops.abs(residual)) < RESIDUAL_LIMIT
    finite = ops.isfinite(ops.reduce_sum(residual))
    return inverse.reshape(shape), ops.logical_and(ok, finite)


def eigen_decomposition(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues (clipped at zero) and eigenvectors of symmetric matrices.

    Args:
        matrices: float32 symmetric positive semi-definite [groups, d, d].

    Returns:
        Eigenvalues [groups, d], eigenvectors as columns [groups, d, d], and whether the vectors are
        finite and orthonormal within :data:`RESIDUAL_LIMIT`.
    """
    values: tuple[Tensor, ...] = ()
    vectors: tuple[Tensor, ...] = ()
    for g in range(matrices.shape[0]):
        if matrices.shape[-1] == 1:
            value, vector = matrices[g].reshape((1,)), ops.ones((1, 1), ms.float32)
        else:
            value, vector = _eigh(matrices[g])
        values += (value,)
        vectors += (vector,)
    w = ops.relu(ops.stack(values))
    q = ops.stack(vectors)
    residual = ops.bmm(q.transpose((0, 2, 1)), q) - identity_like(matrices)
    ok = ops.reduce_max(ops.abs(residual)) < RESIDUAL_LIMIT
    finite = ops.isfinite(ops.reduce_sum(residual) + ops.reduce_sum(w))
    return w, q, ops.logical_and(ok, finite)


def inverse_root(matrices: Tensor, damping: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """``(matrices + damping I)^(-1/order)`` by eigendecomposition.

    The damping is added to the eigenvalues, so it survives beside entries 1e7 times as large.

    Args:
        matrices: finite float32 symmetric positive semi-definite [batch, d, d].
        damping: positive scalar, in the matrices' unit.
        order: 4 for the inverse fourth root.

    Returns:
        The symmetric root [batch, d, d], and whether the decomposition succeeded.
    """
    values, vectors, ok = eigen_decomposition(matrices)
    values = values + damping
    values = ops.maximum(values, EIGENVALUE_FLOOR * values.max(-1, keepdims=True))
    roots = ops.pow(values, -1.0 / order).expand_dims(1)
    root = ops.bmm(vectors * roots, vectors.transpose((0, 2, 1)))
    return root, ops.logical_and(ok, ops.isfinite(ops.reduce_sum(root)))
