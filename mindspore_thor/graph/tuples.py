"""What ``ops.Map`` calls wherever there are tuples of tensors or of functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable

from mindspore import Tensor

from mindspore_thor.graph.operators import CONCAT0, ITEM


def call(function: Callable[..., Any]) -> Any:
    """``function()``."""
    return function()


def pick(values: Sequence[Tensor], i: int) -> Tensor:
    """One of some tensors of any shape, by its number."""
    return ITEM(values, i)


Joiner = Callable[[tuple[Tensor, ...]], Tensor]


def joiner(count: int) -> Joiner:
    """:func:`joined` for so many tensors, chosen once: a question in a graph is two functions."""
    return CONCAT0 if count > 1 else _first


def _first(values: tuple[Tensor, ...]) -> Tensor:
    return ITEM(values, 0)


def joined(values: tuple[Tensor, ...]) -> Tensor:
    """Tensors [n_i, ...] that agree in all but the first axis, as one, [sum of n_i, ...]."""
    return CONCAT0(values) if len(values) > 1 else ITEM(values, 0)
