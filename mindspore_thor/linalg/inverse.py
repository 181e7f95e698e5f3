"""Damped inverses and eigendecompositions that say whether they succeeded.

Every function runs inside a compiled graph and returns ``ok`` (a boolean scalar) instead of
raising: a failed factor must not end a long training run. A device that needs another operator
gets it here.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops
from mindspore.ops.operations.math_ops import SelfAdjointEig
from mindspore.scipy.linalg import eigh as _eigh

from mindspore_thor.linalg.device import on_cpu

RESIDUAL_LIMIT = 1e-2
"""Largest accepted entry of ``|M M^-1 - I|``: beyond it a float32 inverse has lost all meaning."""

EIGENVALUE_FLOOR = 1e-7
"""Smallest eigenvalue of a root as a share of the largest one: float32 resolves nothing below."""

UNROLLED_LIMIT = 4
"""Without a batched operator, up to so many matrices are decomposed without a loop in the graph."""

# Twice as fast as eigh of scipy.linalg, and one operator for any number of matrices.
_eigh_cpu = SelfAdjointEig(True)


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
    values, q = _eigh_cpu(matrices) if on_cpu() else _eigh_any(matrices)
    w = ops.relu(values)
    residual = ops.bmm(q.transpose((0, 2, 1)), q) - identity_like(matrices)
    ok = ops.reduce_max(ops.abs(residual)) < RESIDUAL_LIMIT
    finite = ops.isfinite(ops.reduce_sum(residual) + ops.reduce_sum(w))
    return w, q, ops.logical_and(ok, finite)


def _eigh_any(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """By the operator that every device has; it takes neither a batch nor 1 x 1 matrices."""
    groups, d = matrices.shape[0], matrices.shape[-1]
    if d == 1:
        return matrices.reshape((groups, 1)), ops.ones((groups, 1, 1), ms.float32)
    if groups > UNROLLED_LIMIT:
        return _eigh_loop(matrices)
    values: tuple[Tensor, ...] = ()
    vectors: tuple[Tensor, ...] = ()
    for g in range(groups):
        value, vector = _eigh(matrices[g])
        values += (value,)
        vectors += (vector,)
    return ops.stack(values), ops.stack(vectors)


def _eigh_loop(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """A loop in the graph, whose size does not grow with the number of matrices."""
    values = ops.zeros(matrices.shape[:-1], ms.float32)
    vectors = ops.zeros(matrices.shape, ms.float32)
    i = Tensor([0], ms.int32)
    while i < matrices.shape[0]:
        value, vector = _eigh(ops.gather(matrices, i, 0)[0])
        at = i.reshape((1, 1))
        values = ops.tensor_scatter_update(values, at, value.expand_dims(0))
        vectors = ops.tensor_scatter_update(vectors, at, vector.expand_dims(0))
        i = i + 1
    return values, vectors


def inverse_fourth_root(matrices: Tensor, damping: Tensor) -> tuple[Tensor, Tensor]:
    """``(matrices + damping I)^(-1/4)`` by eigendecomposition.

    The damping is added to the eigenvalues, so it survives beside entries 1e7 times as large.

    Args:
        matrices: finite float32 symmetric positive semi-definite [batch, d, d].
        damping: positive scalar, in the matrices' unit.

    Returns:
        The symmetric root [batch, d, d], and whether the decomposition succeeded.
    """
    values, vectors, ok = eigen_decomposition(matrices)
    values = values + damping
    values = ops.maximum(values, EIGENVALUE_FLOOR * values.max(-1, keepdims=True))
    # Not pow(): its last bit depends on how MindSpore splits the work among threads on CPU, which
    # it tries out during the first calls. A resumed run must compute the same bits.
    roots = (1.0 / ops.sqrt(ops.sqrt(values))).expand_dims(1)
    root = ops.bmm(vectors * roots, vectors.transpose((0, 2, 1)))
    return root, ops.logical_and(ok, ops.isfinite(ops.reduce_sum(root)))
