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


def joined(values: tuple[Tensor, ...]) -> Tensor:
    """Tensors [n_i, ...] that agree in all but the first axis, as one, [sum of n_i, ...]."""
    return CONCAT0(values) if len(values) > 1 else ITEM(values, 0)
