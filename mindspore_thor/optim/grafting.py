"""Grafting: a layer's direction gets the length of another rule's step.

V <- V ||S||_F / ||V||_F for each layer, S what SGD, AdamW or NAdamW would step (Anil et al. 2020,
as in Distributed Shampoo); the learning rate is then that rule's own.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor

from mindspore_thor.graph.operators import (
    ABS,
    CAST,
    DIV,
    GREATER,
    MAXIMUM,
    MUL,
    ONES_LIKE,
    SELECT,
    SQRT,
)
from mindspore_thor.linalg.sums import MAX, SUM

_SMALLEST = 1e-38


def _layer_norms(layers: int, matrix: Tensor) -> Tensor:
    """Frobenius norms of the layers' matrices [L * maps, ...], [L, 1]; no over- or underflow."""
    flat = CAST(matrix.reshape((layers, -1)), ms.float32)
    top = MAX(ABS(flat), 1).reshape((-1, 1))
    flat = DIV(flat, MAXIMUM(top, _SMALLEST))
    return MUL(top, SQRT(SUM(MUL(flat, flat), 1)).reshape((-1, 1)))


def with_length_of(layers: int, matrix: Tensor, step: Tensor) -> Tensor:
    """Matrices with the lengths of others.

    Args:
        layers: L.
        matrix: V, [L * maps, rows, columns].
        step: S, of the same shape.

    Returns:
        V ||S|| / ||V|| per layer; zero where S is zero, V where V is.
    """
    own = _layer_norms(layers, matrix)
    factor = DIV(_layer_norms(layers, step), MAXIMUM(own, _SMALLEST))
    # An infinite factor times a zero would be no number.
    factor = SELECT(GREATER(own, 0.0), factor, ONES_LIKE(factor))
    return MUL(matrix.reshape((layers, -1)), factor).reshape(matrix.shape)
