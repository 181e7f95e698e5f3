"""Tuples of tensors, in functions for ``ops.Map``."""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import Tensor, ops


def pick(values: Sequence[Tensor], i: int) -> Tensor:
    """One of some tensors of any shape, by its number."""
    return values[i]


def joined(values: tuple[Tensor, ...]) -> Tensor:
    """Tensors [n_i, ...] that agree in all but the first axis, as one, [sum of n_i, ...]."""
    return ops.concat(values) if len(values) > 1 else values[0]
