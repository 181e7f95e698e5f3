"""Damped inverses, roots and eigendecompositions that say for each matrix whether they succeeded.

Every function runs inside a compiled graph and returns ``ok`` instead of raising: a failed factor
must not end a long training run.
"""

from __future__ import annotations

from typing import Callable

import mindspore as ms
from mindspore import Tensor, ops
from mindspore.scipy.linalg import eigh as _eigh

from mindspore_thor.graph.counting import counting
from mindspore_thor.graph.operators import (
    ABS,
    ADD,
    AND,
    BMM,
    CAST,
    CONCAT2,
    DIV,
    EYE,
    GATHER,
    IS_FINITE,
    ITEM,
    LESS,
    MAXIMUM,
    MUL,
    SQRT,
    SUB,
    TRANSPOSE,
)
from mindspore_thor.graph.slices import part
from mindspore_thor.linalg.device import (
    batched_eigh,
    general_inverse,
    has_batched_eigh,
    inverts_by_products,
    orthonormal,
)
from mindspore_thor.linalg.newton_schulz import newton_schulz
from mindspore_thor.linalg.sums import MAX, MAX_KEPT, SUM, rows

RESIDUAL_LIMIT = 1e-2
"""Largest accepted entry of ``|M M^-1 - I|``: beyond it a float32 inverse has lost all meaning."""

EIGENVALUE_FLOOR = 1e-7
"""Smallest eigenvalue of a root as a share of the largest one: float32 resolves nothing below."""

ROUNDING = 1.2e-7
"""Distance of 1 to the next float32."""

FAINT = 1e-10
"""What counts as next to nothing beside a matrix's largest entry; its square is no denormal."""

UNROLLED_LIMIT = 64
"""Without a batched operator, up to so many matrices are decomposed without a loop in the graph."""

UNRESOLVED = 1e-6
"""Share of a matrix's trace below which float32 does not tell an eigenvalue from zero."""

INVERSE, EIGEN, FOURTH_ROOT, BASIS = "inverse", "eigen", "fourth_root", "basis"
"""What :func:`solver_of` can make of a matrix."""

# Multiples of the second modulo the first look random enough between -1 and 1.
_PRIME, _FACTOR = 10007, 3571

_MAP, _RELU = ops.Map(), ops.ReLU()


def _values(pair: tuple[Tensor, Tensor]) -> Tensor:
    return ITEM(pair, 0)


def _vectors(pair: tuple[Tensor, Tensor]) -> Tensor:
    return ITEM(pair, 1)


def identity_like(matrices: Tensor) -> Tensor:
    """The float32 identity of the matrices' last axis, [d, d]."""
    d = matrices.shape[-1]
    return EYE(d, d, ms.float32)


Solver = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def solver_of(kind: str, size: int) -> Solver:
    """One job for a batch of symmetric matrices of one size, as a function of a graph.

    Args:
        size: d.
        kind: :data:`INVERSE` for (M + s I)^-1, :data:`FOURTH_ROOT` for (M + s I)^-1/4, both
            [n, d, d] and symmetric; :data:`EIGEN` for the eigenvalues of M as the first column and
            its eigenvectors as the others, [n, d, d + 1] (the shifts are not used); :data:`BASIS`
            for one step from a basis towards the eigenvectors, see :func:`basis_each`.

    Returns:
        (matrices, shifts) -> the solutions, and whether each is sound, boolean [n].

        matrices: float32 symmetric positive semi-definite [n, d, d]; for :data:`BASIS` each with
        its basis behind it, [n, d, 2 d].

        shifts: s, float32 [n]; for :data:`BASIS` above 0 where there is a basis already.
    """
    return {
        INVERSE: inverse_each if size > 1 else inverse_of_numbers,
        FOURTH_ROOT: inverse_fourth_root,
        EIGEN: _eigen_columns,
        BASIS: _basis_columns,
    }[kind]


def _eigen_columns(matrices: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    three = eigen_each(matrices)
    return CONCAT2((ITEM(three, 0).expand_dims(2), ITEM(three, 1))), ITEM(three, 2)


def _basis_columns(matrices: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    three = basis_each(matrices, shifts)
    order = CAST(ITEM(three, 0), ms.float32).expand_dims(2)
    return CONCAT2((order, ITEM(three, 1))), ITEM(three, 2)


def solution_width(kind: str, size: int) -> int:
    """Columns of one solution of a job, see :func:`solver_of`."""
    return size + 1 if kind in (EIGEN, BASIS) else size


def _sound(residuals: Tensor) -> Tensor:
    """Which residual matrices [n, d, d] are finite and small; boolean [n]."""
    # A comparison with NaN is false, so non-finite matrices are caught too.
    small = LESS(MAX(rows(ABS(residuals)), 1), RESIDUAL_LIMIT)
    return AND(small, IS_FINITE(SUM(rows(residuals), 1)))


def inverse_each(matrices: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """Inverses of ``matrices + shift I``.

    Args:
        matrices: float32 symmetric positive semi-definite [n, d, d], d > 1.
        shifts: in the matrices' unit, [n].

    Returns:
        The symmetric inverses [n, d, d], and for each whether all is finite and
        ``|M M^-1 - I|`` stays below :data:`RESIDUAL_LIMIT`.
    """
    eye = identity_like(matrices)
    damped = ADD(matrices, MUL(shifts.reshape((-1, 1, 1)), eye))
    if inverts_by_products():
        return inverse_by_products(damped)
    inverse = general_inverse(damped)
    inverse = MUL(ADD(inverse, TRANSPOSE(inverse, (0, 2, 1))), 0.5)
    return inverse, _sound(SUB(BMM(damped, inverse), eye))


def inverse_of_numbers(matrices: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`inverse_each` of matrices [n, 1, 1], which the devices' operators reject."""
    damped = ADD(matrices, shifts.reshape((-1, 1, 1)))
    inverse = DIV(1.0, damped)
    return inverse, _sound(SUB(MUL(damped, inverse), 1.0))


def inverse_by_products(damped: Tensor) -> tuple[Tensor, Tensor]:
    """Inverses [n, d, d] by Newton-Schulz, by the device's operator where one of them fails.

    The check is made before the result is made symmetric. That brings it closer to the inverse, but
    takes it away from the residual's own minimum by up to the condition number.
    """
    eye = identity_like(damped)
    inverse = newton_schulz(damped)
    sound = _sound(SUB(BMM(damped, inverse), eye))
    if sound.all():
        result, ok = inverse, sound
    else:
        result = general_inverse(damped)
        ok = _sound(SUB(BMM(damped, result), eye))
    return MUL(ADD(result, TRANSPOSE(result, (0, 2, 1))), 0.5), ok


def damped_inverse(matrices: Tensor, damping: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of ``matrices + damping I`` as one job.

    Args:
        matrices: float32 symmetric positive semi-definite [..., d, d].
        damping: scalar, in the matrices' unit.

    Returns:
        The symmetric inverse [..., d, d], and whether every one of them is sound.
    """
    shape = matrices.shape
    flat = matrices.reshape((-1, shape[-1], shape[-1]))
    shifts = damping * ops.ones((flat.shape[0],), ms.float32)
    pair = inverse_of_numbers(flat, shifts) if shape[-1] == 1 else inverse_each(flat, shifts)
    inverse, ok = pair
    return inverse.reshape(shape), ok.all()


def _roughened(matrices: Tensor) -> Tensor:
    """The matrices [n, d, d] with a fixed symmetric pattern of their own rounding errors.

    MindSpore's CPU threads flush denormal numbers to zero, and a Householder reflection of a column
    whose squares are flushed is not orthogonal. Such columns come up where the trailing rows are
    almost empty: in factors of constant or linearly dependent inputs, of black image borders. With
    every entry changed in its last bit, and by 1e-10 of the largest, there are none, and the
    decomposition changes by no more than rounding the matrix to float32 did.
    """
    # Not a sine, whose last bit need not be the same in every call (see inverse_fourth_root).
    k = counting(1, matrices.shape[-1] + 1)
    products = k.expand_dims(0) * k.expand_dims(1) % _PRIME * _FACTOR % _PRIME
    pattern = products.astype(ms.float32) * (2.0 / _PRIME) - 1.0
    size = ABS(matrices)
    largest = MAX(MAX(size, 2), 1).reshape((-1, 1, 1))
    return ADD(matrices, MUL(ADD(MUL(size, ROUNDING), MUL(largest, FAINT)), pattern))


def eigen_each(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues (clipped at zero) and eigenvectors of symmetric matrices.

    Args:
        matrices: float32 symmetric positive semi-definite [n, d, d].

    Returns:
        Eigenvalues [n, d], eigenvectors as columns [n, d, d], and for each matrix whether it was
        finite and its vectors are orthonormal within :data:`RESIDUAL_LIMIT`.
    """
    # The decomposition must not see a NaN: the iteration behind it need not end then.
    finite = IS_FINITE(SUM(rows(matrices), 1))
    eye = identity_like(matrices)
    matrices = _roughened(ops.where(finite.reshape((-1, 1, 1)), matrices, eye))
    pair = batched_eigh(matrices) if has_batched_eigh() else eigh_each(matrices)
    w, q = _RELU(ITEM(pair, 0)), ITEM(pair, 1)
    ok = AND(_sound(SUB(BMM(TRANSPOSE(q, (0, 2, 1)), q), eye)), finite)
    return w, q, AND(ok, IS_FINITE(SUM(w, 1)))


def eigh_each(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [n, d] and eigenvectors of [n, d, d] by an operator that takes one matrix."""
    if matrices.shape[-1] == 1:
        return matrices.reshape((-1, 1)), ops.ones_like(matrices)
    if matrices.shape[0] > UNROLLED_LIMIT:
        return _eigh_loop(matrices)
    # Map instead of a loop: unrolled loops compile very slowly.
    pairs = _MAP(_eigh, ops.unstack(matrices))
    return ops.stack(_MAP(_values, pairs)), ops.stack(_MAP(_vectors, pairs))


def _eigh_loop(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """A loop in the graph, whose size does not grow with the number of matrices."""
    values = ops.zeros(matrices.shape[:-1], ms.float32)
    vectors = ops.zeros(matrices.shape, ms.float32)
    i = Tensor([0], ms.int32)
    while i < matrices.shape[0]:
        value, vector = _eigh(GATHER(matrices, i, 0).reshape(matrices.shape[1:]))
        at = i.reshape((1, 1))
        values = ops.tensor_scatter_update(values, at, value.expand_dims(0))
        vectors = ops.tensor_scatter_update(vectors, at, vector.expand_dims(0))
        i = i + 1
    return values, vectors


def inverse_fourth_root(matrices: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """``(matrices + shift I)^(-1/4)`` by eigendecomposition.

    The shift is added to the eigenvalues, so it survives beside entries 1e7 times as large.

    Args:
        matrices: float32 symmetric positive semi-definite [n, d, d].
        shifts: positive, in the matrices' unit, [n].

    Returns:
        The symmetric roots [n, d, d], and for each whether the decomposition succeeded.
    """
    values, vectors, ok = eigen_each(matrices)
    values = ADD(values, shifts.reshape((-1, 1)))
    values = MAXIMUM(values, MUL(MAX_KEPT(values, -1), EIGENVALUE_FLOOR))
    # Not pow(): its last bit depends on how MindSpore splits the work among threads on CPU, which
    # it tries out during the first calls. A resumed run must compute the same bits.
    roots = DIV(1.0, SQRT(SQRT(values))).expand_dims(1)
    root = BMM(MUL(vectors, roots), TRANSPOSE(vectors, (0, 2, 1)))
    return root, AND(ok, IS_FINITE(SUM(rows(root), 1)))


def basis_each(pairs: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One power step and QR of bases towards the eigenvectors of symmetric matrices (SOAP).

    Q' R = M Q P, where P sorts the columns q of Q by q^T M q, the largest first. Columns that M
    maps to nothing that float32 can tell from zero come last, in their old order, and stay as far
    as the others allow: their images would be rounding errors. Where there is no basis yet, Q' are
    the eigenvectors themselves.

    Args:
        pairs: M and Q, float32 [n, d, 2 d].
        known: above 0 where there is a Q, float32 [n].

    Returns:
        The order, int32 [n, d]: which column of Q each column of Q' comes from. Q' [n, d, d]. And
        for each matrix whether all is finite and orthonormal.
    """
    d = pairs.shape[1]
    eye = EYE(d, d, ms.float32)
    moments, basis = part(pairs, 0, d, 2), part(pairs, d, d, 2)
    traces = SUM(rows(moments * eye), 1).reshape((-1, 1, 1))
    moments = moments / ops.maximum(traces, FAINT**3)
    images = BMM(moments, basis)
    sizes = SUM(basis * images, 1)
    places = counting(0, d).reshape((1, d))
    seen = sizes > UNRESOLVED
    keys = ops.where(seen, sizes, CAST(-1 - places, ms.float32))
    order = CAST(ops.topk(keys, d)[1], ms.int32)
    seen = seen.expand_dims(1)
    columns = ops.where(seen, images / ops.where(seen, sizes.expand_dims(1), 1.0), basis)
    found = orthonormal(_sorted(columns, order))
    missing = known <= 0
    finite = AND(IS_FINITE(traces.reshape((-1,))), IS_FINITE(SUM(rows(images), 1)))
    if missing.any():
        which = missing.reshape((-1, 1, 1))
        _, vectors, good = eigen_each(ops.where(which, moments, eye))
        found = ops.where(
            which, _sorted(vectors, ops.broadcast_to(d - 1 - places, order.shape)), found
        )
        order = ops.where(missing.reshape((-1, 1)), places, order)
        finite = AND(finite, good)
    ok = _sound(SUB(BMM(TRANSPOSE(found, (0, 2, 1)), found), eye))
    return order, found, AND(ok, finite)


def _sorted(columns: Tensor, order: Tensor) -> Tensor:
    """The columns of [n, d, d] in an order, int [n, d]."""
    places = ops.broadcast_to(order.expand_dims(1), columns.shape)
    return ops.gather_elements(columns, 2, places)
