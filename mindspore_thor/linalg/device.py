"""What differs between devices: every choice in a compiled graph is made in this file.

| | CPU, GPU | Ascend |
|---|---|---|
| damped inverses | LU (``ops.inverse``) | Newton-Schulz, and ``aclnnInverse`` where it fails |
| patches | ``ops.unfold``, in the input's type | ``aclnnIm2col`` on float16 |
| products of statistics | float32 | float16 inputs, float32 accumulation |
| sample weights | on the smaller side of a gradient's product | on the layer's input |
| eigendecompositions | batched on CPU | one by one; not an operator of the device |
| orthonormal columns (QR) | ``ops.qr``, batched | ``aclnnQr`` |
| a finite step | the numbers are looked at (CPU) | MindSpore's own check, with 910A's flag |

Inverses and what is multiplied with them stay float32 everywhere. Ascend has no kernel for
Cholesky or for a symmetric eigendecomposition: MindSpore computes those on the host.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Parameter, Tensor, amp, mint, ops
from mindspore.ops.operations.math_ops import SelfAdjointEig

from mindspore_thor.graph.operators import ABS, IS_FINITE, MAXIMUM, MINIMUM
from mindspore_thor.linalg.sums import MAX

# Twice as fast as eigh of scipy.linalg, and one operator for any number of matrices.
_EIGH_CPU = SelfAdjointEig(True)
_APPLY_MOMENTUM = ops.ApplyMomentum()
_ALL, _STACK, _MAP = ops.ReduceAll(), ops.Stack(), ops.Map()

HALF_TARGET = 2.0**15
"""Largest sum that scaled float16 products may reach: half of what float16 can hold."""

_TINY = 1e-30


@ops.constexpr
def on_ascend() -> bool:
    """Whether the device target is Ascend; folded to a constant when the graph is compiled."""
    return bool(ms.get_context("device_target") == "Ascend")


@ops.constexpr
def inverts_by_products() -> bool:
    """Whether damped inverses are made by Newton-Schulz before :func:`general_inverse` is asked."""
    return bool(ms.get_context("device_target") == "Ascend")


@ops.constexpr
def has_batched_eigh() -> bool:
    """Whether :func:`batched_eigh` has a kernel."""
    return bool(ms.get_context("device_target") == "CPU")


@ops.constexpr
def _on_cpu() -> bool:
    return bool(ms.get_context("device_target") == "CPU")


def is_finite(x: Tensor) -> Tensor:
    """Whether all numbers of a tensor of any shape are finite, a boolean scalar."""
    return _ALL(IS_FINITE(x).reshape((-1,)))


def all_finite(tensors: tuple[Tensor, ...]) -> Tensor:
    """Whether a pass's gradients, of any shapes, are all finite, a boolean scalar."""
    if _on_cpu():
        # For each tensor MindSpore's own is half as many nodes again to its compiler.
        return _ALL(_STACK(_MAP(is_finite, tensors)))
    return amp.all_finite(tensors)


@ops.constexpr
def weighs_input(input_size: int, output_size: int) -> bool:
    """Whether sample weights go to a layer's input rather than to its output gradient.

    A weight gradient is bilinear in both, so the smaller one is taken. But MindSpore 2.10's Ascend
    back end stops with an internal error ("node->abstract() is null") where the output gradient of
    a Dense layer is multiplied by stored weights before the product.
    """
    return bool(ms.get_context("device_target") == "Ascend") or input_size <= output_size


def momentum_step(
    weight: Parameter, moment: Parameter, rate: Any, gradient: Tensor, momentum: float
) -> None:
    """The update of one weight: m <- momentum m + gradient, then w <- w - rate m."""
    _APPLY_MOMENTUM(weight, moment, rate, gradient, momentum)


def general_inverse(matrices: Tensor) -> Tensor:
    """Inverses of matrices [n, d, d], d > 1, by the device's operator for any matrix."""
    # LU, not Cholesky: MindSpore's CPU Cholesky raises on an indefinite matrix, which would end the
    # run, and Ascend has no Cholesky kernel at all.
    return mint.inverse(matrices) if on_ascend() else ops.inverse(matrices)


def batched_eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [n, d] and eigenvectors of [n, d, d] by one operator, on CPU."""
    return _EIGH_CPU(matrices)


def orthonormal(matrices: Tensor) -> Tensor:
    """Q of the QR decompositions of [n, d, d] by one operator; its columns' signs are arbitrary."""
    # Householder reflections, not a Cholesky factor of X^T X: columns may nearly depend on others.
    return mint.linalg.qr(matrices)[0] if on_ascend() else ops.qr(matrices)[0]


def im2col(
    x: Tensor,
    kernel: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int],
    stride: tuple[int, int],
) -> Tensor:
    """Patches of x [N, C, H, W] as columns [N, C kh kw, T], in the type of x."""
    if on_ascend():
        # It has no CPU kernel, and ops.unfold has no fast Ascend one.
        return mint.nn.functional.unfold(x, kernel, dilation, padding, stride)
    return ops.unfold(x, kernel, dilation, padding, stride)


@ops.constexpr
def narrow_type(own: Any) -> Any:
    """The type that a layer's patches are made in, where only products follow.

    ``own``, that of the input, but float16 on Ascend, because they are the largest tensors of a
    step that collects statistics. The range is that of mixed-precision training; beyond it the step
    is non-finite and left out.
    """
    return ms.float16 if ms.get_context("device_target") == "Ascend" else own


def half_operand(x: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """A factor of a product of statistics, for Ascend.

    It is scaled such that a sum over ``length`` products of two such entries stays in range and
    uses it: gradients of single samples would otherwise vanish.

    Args:
        x: float32 or float16, any shape.
        length: terms of each sum.

    Returns:
        ``x`` times a number as float16, and the inverse of that number, a float32 scalar.
    """
    largest = MAXIMUM(ops.cast(MAX(ABS(x)), ms.float32), _TINY)
    factor = (HALF_TARGET / length) ** 0.5 / largest
    if x.dtype == ms.float16:
        # The factor must be one, too; no float32 copy of the patches is made.
        factor = ops.cast(MINIMUM(factor, HALF_TARGET), ms.float16)
    return ops.cast(x * factor, ms.float16), 1.0 / ops.cast(factor, ms.float32)


def _rescaled(products: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Finished float16 sums of two operands as float32, in the unit of what they were made of."""
    return ops.cast(products, ms.float32) * (left * right)


def product(operator: Any, x: Tensor, y: Tensor, length: int) -> Tensor:
    """A matrix product of statistics.

    On Ascend the inputs are rounded to float16 and the matrix unit accumulates in float32; every
    finished sum is rounded to float16 once more, for want of an operator with mixed types.

    Args:
        operator: ``MatMul`` or ``BatchMatMul``, with its transpose flags.
        x: left matrices.
        y: right matrices.
        length: terms of each sum.

    Returns:
        float32 on Ascend, elsewhere what the operator returns.
    """
    if not on_ascend():  # asked once, here: a helper that does nothing costs the compiler, too
        return operator(x, y)
    left, unscale_x = half_operand(x, length)
    right, unscale_y = half_operand(y, length)
    return _rescaled(operator(left, right), unscale_x, unscale_y)


def gram(operator: Any, x: Tensor, length: int) -> Tensor:
    """:func:`product` of matrices with themselves, ``operator(x, x)``; arguments as there."""
    return _half_gram(operator, x, length) if on_ascend() else operator(x, x)


def _half_gram(operator: Any, x: Tensor, length: int) -> Tensor:
    left, unscale = half_operand(x, length)
    return _rescaled(operator(left, left), unscale, unscale)
