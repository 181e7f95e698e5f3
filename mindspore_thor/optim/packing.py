"""The gradients of a group's layers as one batch of matrices, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops

from mindspore_thor.graph.operators import CAST, CONCAT1, CONCAT2, ITEM, STACK0, TRANSPOSE
from mindspore_thor.graph.slices import part
from mindspore_thor.graph.tuples import pick
from mindspore_thor.layers.coverage import CoveredLayer

_MAP = ops.Map()


class Packing(NamedTuple):
    """Where the gradients of a group's L layers are found, and how they lie in its matrices.

    Attributes:
        weights: index of every layer's weight among the optimizer's parameters.
        biases: index of every layer's bias; none where the method leaves biases out.
        weight_matrix: (-1, rows, columns) of the weights' part of the matrices.
        bias_matrix: likewise of the biases' part.
        axis: along which the two are joined.
        weight_shape: of a layer's weight.
        bias_shape: of a layer's bias.
        transposed: whether the weights' part lies in the gradients with rows and columns swapped.
    """

    weights: tuple[int, ...]
    biases: tuple[int, ...]
    weight_matrix: tuple[int, int, int]
    bias_matrix: tuple[int, int, int]
    axis: int
    weight_shape: tuple[int, ...]
    bias_shape: tuple[int, ...]
    transposed: bool


def packing_of(
    layers: Sequence[CoveredLayer], parameters: Sequence[Parameter], with_bias: bool
) -> Packing:
    """How the layers of one group are packed.

    Linear layers: [L * maps, d_out, d_in(+1)], a bias as the last column. Tables: [L, vocab, size].
    Elementwise ones: [L, 1 or 2, features], scale and shift as rows.

    Args:
        layers: they are equal but for their names.
        parameters: the optimizer's.
        with_bias: whether the biases are packed.
    """
    first = layers[0]
    shape = tuple(parameters[first.weight].shape)
    biases = tuple(layer.bias for layer in layers) if with_bias else ()
    bias_shape = tuple(parameters[first.bias].shape) if with_bias else ()
    transposed = False
    if first.rows is None:
        row = (-1, 1, int(np.prod(shape)))
        weight_matrix, bias_matrix, axis = row, row, 1
    else:
        height, width = first.rows.matrix
        weight_matrix, bias_matrix, axis = (-1, height, width), (-1, height, 1), 2
        transposed = first.rows.transposed
    weights = tuple(layer.weight for layer in layers)
    return Packing(weights, biases, weight_matrix, bias_matrix, axis, shape, bias_shape, transposed)


def matrices_shape(packing: Packing) -> tuple[int, ...]:
    """The shape of a group's matrices."""
    shape = list(packing.weight_matrix)
    shape[0] = len(packing.weights) * int(np.prod(packing.weight_shape)) // (shape[1] * shape[2])
    if packing.biases:
        shape[packing.axis] += packing.bias_matrix[packing.axis]
    return tuple(shape)


def _stacked(
    gradients: Sequence[Tensor],
    numbers: tuple[int, ...],
    shape: tuple[int, int, int],
    transposed: bool = False,
) -> Tensor:
    chosen = _MAP(ops.partial(pick, gradients), numbers)
    whole = ITEM(chosen, 0) if len(numbers) == 1 else STACK0(chosen)
    whole = _turned(whole, shape) if transposed else whole.reshape(shape)
    return CAST(whole, ms.float32)


def _turned(whole: Tensor, shape: tuple[int, int, int]) -> Tensor:
    return TRANSPOSE(whole.reshape((-1, shape[2], shape[1])), (0, 2, 1))


# ops.Map hands over named tuples as plain ones.


def pack(gradients: Sequence[Tensor], packing: Packing) -> Tensor:
    """The gradients of one group as float32 matrices, see :func:`packing_of`."""
    weights, biases, weight_matrix, bias_matrix, axis, _, _, transposed = packing
    matrix = _stacked(gradients, weights, weight_matrix, transposed)
    if len(biases) > 0:
        ends = _stacked(gradients, biases, bias_matrix)
        matrix = CONCAT1((matrix, ends)) if axis == 1 else CONCAT2((matrix, ends))
    return matrix


def _unstacked(
    stack: Tensor, shape: tuple[int, ...], count: int, gradient: Tensor
) -> tuple[Tensor, ...]:
    stack = CAST(stack, gradient.dtype)
    if count == 1:
        return (stack.reshape(shape),)
    return ops.unstack(stack.reshape((count,) + shape))  # noqa: RUF005 (the graph parser)


def unpack(gradients: Sequence[Tensor], packing: Packing, matrix: Tensor) -> tuple[Tensor, ...]:
    """Matrices as gradients, in these ones' types: those of the weights, then of the biases."""
    numbers, biases, weight_matrix, bias_matrix, axis, shape, bias_shape, transposed = packing
    count, width = len(numbers), weight_matrix[axis]
    weights = matrix if len(biases) == 0 else part(matrix, 0, width, axis)
    if transposed:
        weights = TRANSPOSE(weights, (0, 2, 1))
    found = _unstacked(weights, shape, count, ITEM(gradients, ITEM(numbers, 0)))
    if len(biases) > 0:
        ends = part(matrix, width, bias_matrix[axis], axis)
        found += _unstacked(ends, bias_shape, count, ITEM(gradients, ITEM(biases, 0)))
    return found
