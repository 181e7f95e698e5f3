"""What ``ops.Map`` does with every group of layers.

Loops over groups are no loops of Python, which the compiler unrolls into nested functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable

from mindspore import Tensor, ops

from mindspore_thor.curvature.group import META
from mindspore_thor.graph.operators import MUL, STACK0
from mindspore_thor.graph.slices import part
from mindspore_thor.graph.tuples import pick
from mindspore_thor.linalg.sums import SUM

_MAP = ops.Map()


def hand(take: Callable[..., Any], value: Tensor) -> bool:
    """``take(value)``; with a result, without which it would compile to a call of Python."""
    take(value)
    return True


def directed(damping: Tensor, direction: Callable[..., Any], matrix: Tensor) -> Tensor:
    """The direction of a group's gradients."""
    return direction(matrix, damping)


def inner(layers: int, left: Tensor, right: Tensor) -> Tensor:
    """Inner products of the layers' matrices [L * maps, ...], [L]."""
    return SUM(MUL(left, right).reshape((layers, -1)), 1)


def squared_rates(lr: tuple[Tensor, ...], weights: tuple[int, ...]) -> Tensor:
    """The squares of the learning rates of a group's weights, [L]."""
    rates = STACK0(_MAP(ops.partial(pick, lr), weights)).reshape((-1,))
    return MUL(rates, rates)


def product(left: Tensor, right: Tensor) -> Tensor:
    """Elementwise."""
    return MUL(left, right)


def times(factor: Tensor, matrix: Tensor) -> Tensor:
    """With one factor for all groups."""
    return MUL(matrix, factor)


def times_each(factors: Tensor, matrix: Tensor, start: int, layers: int) -> Tensor:
    """Matrices [L * maps, ...] times their layers' factors, which begin at ``start``."""
    factor = part(factors, start, layers).reshape((layers, 1))
    return MUL(matrix.reshape((layers, -1)), factor).reshape(matrix.shape)


def stacked(statistics: Sequence[Tensor], numbers: tuple[int, ...]) -> Tensor:
    """The fresh statistics of a group, [L, size]."""
    rows = _MAP(ops.partial(pick, statistics), numbers)
    return STACK0(rows)


def uses_of(fresh: Tensor) -> Tensor:
    """How often each layer was used, out of a group's statistics, [L]."""
    return part(fresh, fresh.shape[1] - META, 1, 1).reshape((-1,))
