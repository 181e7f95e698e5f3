"""Which matrices of all groups are solved together, and where each group finds its solutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, NamedTuple

import numpy as np
from mindspore import Tensor

from mindspore_thor.curvature.group import GroupCurvature
from mindspore_thor.graph.slices import all_of, part
from mindspore_thor.linalg.inverse import solution_width
from mindspore_thor.parallel.assignment import packed_length


class Piece(NamedTuple):
    """Where a group's solutions are found: ``number`` matrices from ``start`` on in ``batch``.

    A batch that is all its own is not copied by ``take``.
    """

    take: Callable[..., Tensor]
    batch: int
    start: int
    number: int


class Batch(NamedTuple):
    """All matrices of one size that are solved alike.

    The stacks that it consists of are numbered: their groups, and where a group's problems hold
    the matrices and the shifts.
    """

    kind: str
    size: int
    width: int
    number: int
    groups: tuple[int, ...]
    matrices: tuple[int, ...]
    shifts: tuple[int, ...]
    numbers: tuple[int, ...]


def batches_of(groups: Sequence[GroupCurvature]) -> tuple[Batch, ...]:
    """Every stack of every group, sorted by job and size in the order of first appearance."""
    found: dict[tuple[str, int], list[tuple[int, int, int]]] = {}
    for k, group in enumerate(groups):
        for i, (count, size) in enumerate(group.stacks()):
            found.setdefault((group.solver, size), []).append((k, i, group.layers * count))
    return tuple(
        Batch(
            kind,
            size,
            solution_width(kind, size),
            sum(n for _, _, n in stacks),
            tuple(k for k, _, _ in stacks),
            tuple(2 * i for _, i, _ in stacks),
            tuple(2 * i + 1 for _, i, _ in stacks),
            tuple(n for _, _, n in stacks),
        )
        for (kind, size), stacks in found.items()
    )


def pieces_of(batches: Sequence[Batch], groups: int) -> tuple[tuple[Piece, ...], ...]:
    """For every group, in the order of its stacks, where their solutions are found."""
    found: list[dict[int, Piece]] = [{} for _ in range(groups)]
    for b, batch in enumerate(batches):
        start = 0
        for k, i, n in zip(batch.groups, batch.matrices, batch.numbers):
            found[k][i] = Piece(all_of if n == batch.number else part, b, start, n)
            start += n
    return tuple(tuple(of_group[i] for i in sorted(of_group)) for of_group in found)


def owners_of(batches: Sequence[Batch], groups: Sequence[GroupCurvature]) -> list[np.ndarray]:
    """For every batch the number of the layer of each matrix, int32, counted over all groups."""
    firsts = np.cumsum([0, *(group.layers for group in groups)])
    found = []
    for batch in batches:
        layers = [
            np.repeat(np.arange(groups[k].layers), n // groups[k].layers) + firsts[k]
            for k, n in zip(batch.groups, batch.numbers)
        ]
        found.append(np.concatenate(layers).astype(np.int32))
    return found


def travelling_lengths(batches: Sequence[Batch]) -> list[int]:
    """Numbers that the solutions of every batch travel as, then those of their checks."""
    lengths = []
    for batch in batches:
        length = batch.size * batch.width
        if batch.width == batch.size:
            length = packed_length(batch.size)
        lengths.append(batch.number * length)
    return lengths + [batch.number for batch in batches]
