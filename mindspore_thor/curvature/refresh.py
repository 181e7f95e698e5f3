"""The refresh of all groups: their matrices are solved together, one batch for every size.

The groups only pose their problems and take the solutions. Loops over groups are ``ops.Map`` over
their bound methods: the compiler unrolls a loop into nested functions, and its time then grows with
the square of their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindspore_thor.curvature.group import GroupCurvature
from mindspore_thor.graph.slices import part
from mindspore_thor.graph.tuples import joined, pick
from mindspore_thor.linalg.inverse import solution_width, solve_each
from mindspore_thor.linalg.triangles import pack_triangles, unpack_triangles
from mindspore_thor.parallel.assignment import Share, assign, packed_length
from mindspore_thor.parallel.communication import FusedSum, team_group, world

_MAX = ops.ReduceMax()
_MIN = ops.ReduceMin()


class Piece(NamedTuple):
    """Where a group's solutions are found: ``number`` matrices from ``start`` on in ``batch``."""

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
            found[k][i] = Piece(b, start, n)
            start += n
    return tuple(tuple(of_group[i] for i in sorted(of_group)) for of_group in found)


def travelling_lengths(batches: Sequence[Batch]) -> list[int]:
    """Numbers that the solutions of every batch travel as, then those of their checks."""
    lengths = []
    for batch in batches:
        length = batch.size * batch.width
        if batch.width == batch.size:
            length = packed_length(batch.size)
        lengths.append(batch.number * length)
    return lengths + [batch.number for batch in batches]


# What ops.Map calls: the arguments that all groups share come first, by ops.partial.


def _decide(damping: Tensor, decide: Callable[..., Any]) -> tuple[Tensor, Tensor]:
    return decide(damping)


def _pose(damping: Tensor, problems: Callable[..., Any]) -> tuple[Tensor, ...]:
    return problems(damping)


def _first(pair: tuple[Tensor, Tensor]) -> Tensor:
    return pair[0]


def _second(pair: tuple[Tensor, Tensor]) -> Tensor:
    return pair[1]


def _failed(counts: Tensor) -> Tensor:
    return ops.cast(part(counts, 3, 1, 1).reshape((-1,)) > 0, ms.int32)


def _pick(problems: tuple[tuple[Tensor, ...], ...], group: int, item: int) -> Tensor:
    return problems[group][item]


def _no(decision: Tensor) -> Tensor:
    return ops.zeros_like(decision)


def _any(values: tuple[Tensor, ...]) -> Tensor:
    """Whether any of the layers' int32 [L] is positive."""
    return _MAX(joined(values)) > 0


def _solutions(
    solved: tuple[tuple[Tensor, Tensor], ...], layers: int, pieces: tuple[Piece, ...]
) -> tuple[tuple[Tensor, ...], Tensor]:
    """One group's solutions, and int32 [L] whether all of a layer are sound."""
    found: tuple[Tensor, ...] = ()
    checks: tuple[Tensor, ...] = ()
    for batch, start, count in pieces:
        found += (part(solved[batch][0], start, count),)
        checks += (part(solved[batch][1], start, count).reshape((layers, -1)),)
    return found, ops.cast(_MIN(ops.concat(checks, 1), 1) > 0, ms.int32)


def _install(
    damping: Tensor,
    install: Callable[..., Any],
    decision: Tensor,
    solutions: tuple[tuple[Tensor, ...], Tensor],
) -> tuple[Tensor, ...]:
    return install(decision * solutions[1] > 0, damping, solutions[0])


def _settle(
    again: bool,
    settle: Callable[..., Any],
    decision: Tensor,
    candidate: Tensor,
    sound: Tensor,
) -> tuple[Tensor, ...]:
    return settle(decision, sound, candidate, again)


def _store(parameters: tuple[Parameter, ...], values: tuple[Tensor, ...]) -> bool:
    for i in range(len(parameters)):
        ops.assign(parameters[i], values[i])
    return True


def _travelling(solved: Tensor) -> Tensor:
    # A NaN, which only a failed solution has, stays with its own matrix.
    return pack_triangles(solved) if solved.shape[1] == solved.shape[2] else solved


def _arrived(came: Tensor, ok: Tensor, size: int) -> tuple[Tensor, Tensor]:
    whole = came.shape[1] == size and came.shape[2] == size + 1  # eigenvalues and eigenvectors
    return (came if whole else unpack_triangles(came, size)), ok


class Refresh(nn.Cell):
    """Refreshes the curvature of all groups.

    Where layers may skip a refresh (THOR's trace rule), a batch is solved only if one of its
    layers accepts, and nothing is touched if none does. The inverses of a layer that skips, or one
    of whose matrices failed, stay bit-identical.

    With several ranks each solves its own matrices of every batch and fills in zeros for the
    others; their sum over the ranks that share the work is the whole, down to the last bit. It is
    one AllReduce rather than an AllGather because shares are not equal, and because MindSpore's CPU
    back end gathers equal ones only; symmetric solutions travel as triangles, which makes up for
    it. Whether a solution is sound travels with it. The statistics are the same on all ranks, so
    their decisions are, too, and no rank waits for another in vain.

    Args:
        curvatures: one per group.
        share: on how many ranks each matrix is solved.
    """

    def __init__(self, curvatures: Sequence[GroupCurvature], share: Share = "one") -> None:
        super().__init__(auto_prefix=False)
        groups = [c for c in curvatures if c.solver]
        self.group_count = len(groups)
        self.selective = any(c.selective for c in groups)
        self.map = ops.Map()
        self.decide = tuple(c.decide for c in groups)
        self.problems = tuple(c.problems for c in groups)
        self.install = tuple(c.install for c in groups)
        self.settle = tuple(c.settle for c in groups)
        self.layers = tuple(c.layers for c in groups)
        self.counts = ParameterTuple([c.counts for c in groups])
        self.derived = tuple(ParameterTuple(c.derived()) for c in groups)
        self.counters = tuple(ParameterTuple(c.counters()) for c in groups)
        self.batches = batches_of(groups)
        self.batch_sizes = tuple(batch.size for batch in self.batches)
        self.batch_numbers = tuple(range(len(self.batches)))
        self.pieces = pieces_of(self.batches, len(groups))
        rank, ranks = world()
        sizes = [batch.size for batch in self.batches for _ in range(batch.number)]
        self.assignment = assign(sizes, ranks, share)
        self.exchanges = self.assignment.workers > 1 and len(groups) > 0
        if self.exchanges:
            self._divide(rank, ranks)

    def _divide(self, rank: int, ranks: int) -> None:
        """Prepare what this rank solves and how results are exchanged."""
        mine = set(self.assignment.of(rank))
        start = 0
        own: list[Tensor] = []
        places: list[Tensor] = []
        counts: list[int] = []
        for batch in self.batches:
            held = [i for i in range(batch.number) if start + i in mine]
            start += batch.number
            # A row of zeros behind the own solutions stands for all that others solve.
            place = np.full(batch.number, len(held), np.int32)
            place[held] = np.arange(len(held))
            own.append(Tensor(np.array(held or [0], np.int32)))
            places.append(Tensor(place))
            counts.append(len(held))
        self.own, self.places, self.own_counts = tuple(own), tuple(places), tuple(counts)
        group = team_group(self.assignment.team(rank), ranks)
        self.sum = FusedSum(travelling_lengths(self.batches), group=group)

    def refresh(self, damping: Tensor) -> None:
        """Solve where the layers decide so, and count what became of it."""
        if self.group_count > 0:
            judged = self.map(ops.partial(_decide, damping), self.decide)
            decisions = self.map(_first, judged)
            sound = self.run(decisions, damping, self.selective)
            self.finish(decisions, self.map(_second, judged), sound, False)

    def retry(self, damping: Tensor) -> None:
        """Solve once more, with this damping, for the layers whose last refresh failed."""
        if self.group_count > 0:
            judged = self.map(ops.partial(_decide, damping), self.decide)
            decisions = self.map(_failed, self.counts)
            sound = self.run(decisions, damping, True)
            self.finish(decisions, self.map(_second, judged), sound, True)

    def failed(self) -> Tensor | bool:
        """Whether the last refresh failed for any layer."""
        if self.group_count == 0:
            return False
        return _any(self.map(_failed, self.counts))

    def finish(
        self,
        decisions: tuple[Tensor, ...],
        candidates: tuple[Tensor, ...],
        sound: tuple[Tensor, ...],
        again: bool,
    ) -> None:
        """Count successes and failures; ``sound`` is int32 [L] of every group."""
        values = self.map(ops.partial(_settle, again), self.settle, decisions, candidates, sound)
        self.map(_store, self.counters, values)

    def run(
        self, decisions: tuple[Tensor, ...], damping: Tensor, selective: bool
    ) -> tuple[Tensor, ...]:
        """Solve and install where a decision is positive.

        Returns:
            int32 [L] of every group: whether all matrices of a layer were solved.
        """
        if not selective:
            return self.work(decisions, damping, False)
        sound = self.map(_no, decisions)
        if _any(decisions):
            sound = self.work(decisions, damping, True)
        return sound

    def work(
        self, decisions: tuple[Tensor, ...], damping: Tensor, selective: bool
    ) -> tuple[Tensor, ...]:
        """The same without a look at whether there is anything to do."""
        problems = self.map(ops.partial(_pose, damping), self.problems)
        solved = self.map(
            ops.partial(self.solve, problems, decisions, selective), self.batch_numbers
        )
        if self.exchanges:
            solved = self.exchange(solved)
        found = self.map(ops.partial(_solutions, solved), self.layers, self.pieces)
        values = self.map(ops.partial(_install, damping), self.install, decisions, found)
        # All is read before anything is written: that keeps the graph's chain of effects short.
        self.map(_store, self.derived, values)
        return self.map(_second, found)

    def solve(
        self,
        problems: tuple[tuple[Tensor, ...], ...],
        decisions: tuple[Tensor, ...],
        selective: bool,
        b: int,
    ) -> tuple[Tensor, Tensor]:
        """The solutions of one batch; zeros, which no layer takes, where none is wanted."""
        batch = self.batches[b]
        problem = ops.partial(_pick, problems)
        matrices = joined(self.map(problem, batch.groups, batch.matrices))
        shifts = joined(self.map(problem, batch.groups, batch.shifts))
        if not selective:
            return self.solve_own(b, matrices, shifts)
        if _any(self.map(ops.partial(pick, decisions), batch.groups)):
            solved, ok = self.solve_own(b, matrices, shifts)
        else:
            solved = ops.zeros((batch.number, batch.size, batch.width), ms.float32)
            ok = ops.zeros((batch.number,), ms.float32)
        return solved, ok

    def solve_own(self, b: int, matrices: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
        """This rank's solutions of one batch, all others zero."""
        batch = self.batches[b]
        if not self.exchanges or self.own_counts[b] == batch.number:
            return solve_each(batch.kind, matrices, shifts)
        if self.own_counts[b] == 0:
            empty = ops.zeros((batch.number, batch.size, batch.width), ms.float32)
            return empty, ops.zeros((batch.number,), ms.float32)
        own = self.own[b]
        solved, ok = solve_each(
            batch.kind, ops.gather(matrices, own, 0), ops.gather(shifts, own, 0)
        )
        solved = ops.concat((solved, ops.zeros((1, batch.size, batch.width), ms.float32)))
        ok = ops.concat((ok, ops.zeros((1,), ms.float32)))
        place = self.places[b]
        return ops.gather(solved, place, 0), ops.gather(ok, place, 0)

    def exchange(self, solved: tuple[tuple[Tensor, Tensor], ...]) -> tuple[tuple[Tensor, ...], ...]:
        """Everybody's solutions from everybody's own."""
        sent = self.map(_travelling, self.map(_first, solved))
        came = self.sum(sent + self.map(_second, solved))
        count = len(self.batches)
        return self.map(_arrived, came[:count], came[count:], self.batch_sizes)
