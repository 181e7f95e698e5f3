"""The messages of every kind of step, from shapes alone: nothing is compiled."""

from __future__ import annotations

from collections.abc import Sequence

from mindspore_thor.curvature.batches import travelling_lengths
from mindspore_thor.parallel.communication import messages, packed_lengths
from mindspore_thor.step.train_step import TrainStep

_FLOAT = 4


def message_bytes(lengths: Sequence[int]) -> list[int]:
    """Bytes of every message that tensors of these lengths travel in."""
    return [_FLOAT * sum(lengths[first:end]) for first, end in messages(lengths)]


def traffic(step: TrainStep) -> dict[str, list[int]]:
    """What each kind of step sends.

    The number of ranks does not matter: an AllReduce takes whole vectors. Every update also
    averages BatchNorm's running statistics.

    Args:
        step: of any method.

    Returns:
        Kind of step (see :mod:`benchmarks.ascend.graphs`) -> bytes of every AllReduce.
    """
    optimizer = step.optimizer
    running = message_bytes([int(p.size) for p in step.guard.running])
    if not step.second_order:
        weights = list(optimizer.parameters)
        gradients = message_bytes([1, *packed_lengths(weights, [()] * len(weights))])
        return {"plain": gradients + running}
    weights = list(optimizer.weights)
    tensors, specs = list(optimizer.parameters), list(optimizer.traffic())
    fused = [tensor for tensor, spec in zip(weights, specs) if spec is not None]
    gradients = message_bytes([1, *packed_lengths(fused, [()] * len(fused))])
    # What a layer sends by itself, in the middle of the backward pass.
    single = [_FLOAT * n for curvature in optimizer.curvatures for n in curvature.exchanged()]
    found = {"plain": single + gradients}
    if optimizer.measures_first:
        tensors, specs = tensors[len(weights) :], specs[len(weights) :]
    pairs = [(tensor, spec) for tensor, spec in zip(tensors, specs) if spec is not None]
    lengths = packed_lengths([tensor for tensor, _ in pairs], [spec for _, spec in pairs])
    found["factor"] = message_bytes([1, *lengths])
    found["update"] = running
    batches = optimizer.refresher.batches
    if batches:
        found["inverse"] = message_bytes(travelling_lengths(batches))
    return found
