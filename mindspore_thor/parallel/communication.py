"""What ranks exchange, in few messages; with one rank nothing of it enters a graph.

Everything travels as float32 in an AllReduce with SUM: the one collective that every device has
(MindSpore's CPU back end knows no other reduction), and its result has the same bits on all ranks.
Tensors are laid end to end in messages of at most :data:`MESSAGE_BYTES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.communication import GlobalComm, create_group, get_group_size, get_rank

from mindspore_thor.graph.slices import part_or_all
from mindspore_thor.linalg.device import all_finite
from mindspore_thor.linalg.triangles import pack_triangles, unpack_triangles
from mindspore_thor.parallel.assignment import packed_length

MESSAGE_BYTES = 2**26
"""Largest message, 64 MiB: few enough messages that their latency does not count."""

SMALLEST_PACKED = 32
"""Smallest matrices that travel as triangles: packing smaller ones saves less than it costs."""

Symmetric = tuple[tuple[int, int, int], ...]
"""(start, count, size) of the symmetric matrices in a statistics vector."""

_MAP = ops.Map()


def world() -> tuple[int, int]:
    """(rank, number of ranks); (0, 1) where communication was not initialised.

    A graph that is only compiled, never run, may be given a place without devices by
    ``ms.set_auto_parallel_context(device_num=..., global_rank=...)``.
    """
    if GlobalComm.INITED:
        return get_rank(), get_group_size()
    size = int(ms.get_auto_parallel_context("device_num"))
    return (int(ms.get_auto_parallel_context("global_rank")), size) if size > 1 else (0, 1)


def team_group(team: Sequence[int], ranks: int) -> str:
    """The communication group of some ranks, made where it is not that of all."""
    if len(team) == ranks:
        return str(GlobalComm.WORLD_COMM_GROUP or "hccl_world_group")
    name = f"mindspore_thor_{team[0]}_{team[-1]}"
    if GlobalComm.INITED:
        create_group(name, list(team))
    return name


def messages(lengths: Sequence[int], limit: int = MESSAGE_BYTES) -> tuple[tuple[int, int], ...]:
    """Consecutive (first, end) ranges of tensors that share a message.

    Args:
        lengths: entries of every tensor, four bytes each.
        limit: bytes; a larger tensor has a message of its own.
    """
    found, start, held = [], 0, 0
    for i, length in enumerate(lengths):
        if i > start and 4 * (held + length) > limit:
            found.append((start, i))
            start, held = i, 0
        held += length
    if lengths:
        found.append((start, len(lengths)))
    return tuple(found)


def _flat(x: Tensor) -> Tensor:
    return ops.cast(x, ms.float32).reshape((-1,))


def _like(flat: Tensor, start: int, length: int, like: Tensor) -> Tensor:
    return ops.cast(part_or_all(flat, start, length).reshape(like.shape), like.dtype)


class FusedSum(nn.Cell):
    """Sum of tensors across ranks.

    Args:
        lengths: entries of every tensor.
        scale: factor on the sums.
        group: communication group; all ranks where it is empty.
    """

    def __init__(self, lengths: Sequence[int], scale: float = 1.0, group: str = "") -> None:
        super().__init__(auto_prefix=False)
        self.messages = messages(lengths)
        self.scale = scale
        self.lengths = tuple(tuple(lengths[a:b]) for a, b in self.messages)
        self.starts = tuple(
            tuple(int(s) for s in np.cumsum((0, *of_message))[:-1]) for of_message in self.lengths
        )
        self.all_reduce = ops.AllReduce(ops.ReduceOp.SUM, group) if group else ops.AllReduce()

    def construct(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Tensors of the stated lengths -> their sums, in the same shapes and types."""
        result: tuple[Tensor, ...] = ()
        for m in range(len(self.messages)):
            first, end = self.messages[m]
            sent = tensors[first:end]
            flat = self.all_reduce(ops.concat(_MAP(_flat, sent)))
            if self.scale != 1.0:
                flat = flat * self.scale
            result += _MAP(ops.partial(_like, flat), self.starts[m], self.lengths[m], sent)
        return result


def _packed(spec: Symmetric) -> Symmetric:
    return tuple(s for s in spec if s[2] >= SMALLEST_PACKED)


def _pack(spec: Symmetric, statistics: Tensor) -> Tensor:
    """A statistics vector with its symmetric matrices as triangles."""
    if len(spec) == 0:
        return statistics
    pieces: tuple[Tensor, ...] = ()
    end = 0
    for start, count, size in spec:
        if start > end:
            pieces += (part_or_all(statistics, end, start - end),)
        matrices = part_or_all(statistics, start, count * size * size).reshape((count, size, size))
        pieces += (pack_triangles(matrices).reshape((-1,)),)
        end = start + count * size * size
    if end < statistics.shape[0]:
        pieces += (part_or_all(statistics, end, statistics.shape[0] - end),)
    return ops.concat(pieces)


def _unpack(spec: Symmetric, packed: Tensor, like: Tensor) -> Tensor:
    """The inverse of :func:`_pack`."""
    if len(spec) == 0:
        return packed
    pieces: tuple[Tensor, ...] = ()
    end, at = 0, 0
    for start, count, size in spec:
        if start > end:
            pieces += (part_or_all(packed, at, start - end),)
            at = at + start - end
        h = (size + 1) // 2
        length = count * h * (2 * h + 1)
        triangles = part_or_all(packed, at, length).reshape((count, h, 2 * h + 1))
        pieces += (unpack_triangles(triangles, size).reshape((-1,)),)
        at = at + length
        end = start + count * size * size
    if end < like.shape[0]:
        pieces += (part_or_all(packed, at, like.shape[0] - end),)
    return ops.concat(pieces)


def packed_lengths(tensors: Sequence[Any], specs: Sequence[Symmetric]) -> list[int]:
    """Numbers that each of some tensors travels as, given where its symmetric matrices lie."""
    lengths = []
    for tensor, spec in zip(tensors, specs):
        saved = sum(n * (d * d - packed_length(d)) for _, n, d in _packed(spec))
        lengths.append(int(np.prod(tensor.shape)) - saved)
    return lengths


class MeanAcrossRanks(nn.Cell):
    """Mean over ranks of the loss, the gradients and the statistics.

    With equal shards the means over ranks are the means over the whole batch, statistics included:
    g = N dL/ds has the rank's own N and mean loss in it, so it is the per-sample gradient whatever
    the shard. A NaN or an infinity on one rank reaches the sums of all, so every rank makes the
    same of a bad step.

    Args:
        tensors: what arrives: parameters, and the probes behind them.
        specs: for each of them where its symmetric matrices lie, () for none; None where it stays
            on its rank.
    """

    def __init__(self, tensors: Sequence[Any], specs: Sequence[Optional[Symmetric]]) -> None:
        super().__init__(auto_prefix=False)
        _, size = world()
        self.specs = tuple(_packed(spec) for spec in specs if spec is not None)
        # Neighbours that travel, and that do not, in turn: (travel?, first, end).
        kinds = [spec is not None for spec in specs]
        starts = [i for i in range(len(kinds)) if i == 0 or kinds[i] != kinds[i - 1]]
        self.runs = tuple((kinds[a], a, b) for a, b in zip(starts, [*starts[1:], len(kinds)]))
        shared = [t for t, kind in zip(tensors, kinds) if kind]
        self.sum = FusedSum([1, *packed_lengths(shared, self.specs)], 1.0 / size)

    def construct(
        self, loss: Tensor, gradients: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Loss, gradients and statistics of this rank -> their means."""
        shared: tuple[Tensor, ...] = ()
        local: tuple[Tensor, ...] = ()
        for travels, first, end in self.runs:
            if travels:
                shared += gradients[first:end]
            else:
                local += gradients[first:end]
        if len(local) > 0:
            # What does not travel must be able to stop the others all the same.
            loss = ops.where(all_finite(local), loss, ops.full_like(loss, float("nan")))
        packed = _MAP(_pack, self.specs, shared)
        means = self.sum((loss, *packed))
        unpacked = _MAP(_unpack, self.specs, means[1:], shared)
        result: tuple[Tensor, ...] = ()
        at = 0
        for travels, first, end in self.runs:
            if travels:
                result += unpacked[at : at + end - first]
                at += end - first
            else:
                result += gradients[first:end]
        return means[0], result
