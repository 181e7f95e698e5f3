"""The messages of every kind of step, from shapes alone: nothing is compiled."""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import nn

from mindspore_thor.curvature.refresh import travelling_lengths
from mindspore_thor.optim.base import SecondOrder
from mindspore_thor.parallel.communication import messages, packed_lengths

_FLOAT = 4


def message_bytes(lengths: Sequence[int]) -> list[int]:
    """Bytes of every message that tensors of these lengths travel in."""
    return [_FLOAT * sum(lengths[first:end]) for first, end in messages(lengths)]


def traffic(optimizer: nn.Optimizer) -> dict[str, list[int]]:
    """What each kind of step sends.

    The number of ranks does not matter: an AllReduce takes whole vectors.

    Args:
        optimizer: any of the package's.

    Returns:
        Kind of step (see :mod:`benchmarks.ascend.graphs`) -> bytes of every AllReduce.
    """
    if not isinstance(optimizer, SecondOrder):
        weights = list(optimizer.parameters)
        return {"plain": message_bytes([1, *packed_lengths(weights, [()] * len(weights))])}
    weights = list(optimizer.weights)
    found = {"plain": message_bytes([1, *packed_lengths(weights, [()] * len(weights))])}
    tensors, specs = list(optimizer.parameters), list(optimizer.traffic())
    if optimizer.measures_first:
        tensors, specs = tensors[len(weights) :], specs[len(weights) :]
    pairs = [(tensor, spec) for tensor, spec in zip(tensors, specs) if spec is not None]
    lengths = packed_lengths([tensor for tensor, _ in pairs], [spec for _, spec in pairs])
    found["factor"] = message_bytes([1, *lengths])
    if optimizer.derives and optimizer.refresher.batches:
        found["inverse"] = message_bytes(travelling_lengths(optimizer.refresher.batches))
    return found
