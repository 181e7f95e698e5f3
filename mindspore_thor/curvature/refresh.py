"""The refresh of all groups: their matrices are solved together, one batch for every size.

The groups only pose their problems and take the solutions. Loops over groups are ``ops.Map`` over
their bound methods: the compiler unrolls a loop into nested functions, and its time then grows with
the square of their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindspore_thor.curvature.batches import batches_of, owners_of, pieces_of, travelling_lengths
from mindspore_thor.curvature.group import GroupCurvature
from mindspore_thor.curvature.outcomes import Outcomes
from mindspore_thor.graph.operators import (
    ASSIGN,
    CAST,
    GATHER,
    GREATER,
    ITEM,
    LESS,
    MATMUL,
    MUL,
    SUB,
)
from mindspore_thor.graph.slices import SLICE
from mindspore_thor.graph.tuples import Joiner, call, joiner
from mindspore_thor.linalg.inverse import Solver, solver_of
from mindspore_thor.linalg.sums import MAX
from mindspore_thor.linalg.triangles import pack_triangles, unpack_triangles
from mindspore_thor.parallel.assignment import Share, assign
from mindspore_thor.parallel.communication import FusedSum, team_group, world

_MAP = ops.Map()

Problems = tuple[tuple[Tensor, ...], ...]
"""Every group's :meth:`~mindspore_thor.curvature.group.GroupCurvature.problems`."""


# What ops.Map calls: the arguments that all groups share come first, by ops.partial.


def _pose(damping: Tensor, function: Callable[..., Any]) -> Any:
    return function(damping)


def _pick(problems: Problems, group: int, item: int) -> Tensor:
    return ITEM(ITEM(problems, group), item)


def _any(values: Tensor) -> Tensor:
    """Whether any of int32 [n] is positive."""
    return GREATER(MAX(values), 0)


def _piece(
    solved: tuple[Tensor, ...], take: Callable[..., Tensor], batch: int, start: int, count: int
) -> Tensor:
    return take(ITEM(solved, batch), start, count)


def _solutions(
    solved: tuple[Tensor, ...],
    takes: tuple[Callable[..., Tensor], ...],
    batches: tuple[int, ...],
    starts: tuple[int, ...],
    counts: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """One group's solutions, from its pieces."""
    return _MAP(ops.partial(_piece, solved), takes, batches, starts, counts)


def _install(
    damping: Tensor,
    good: Tensor,
    install: Callable[..., Any],
    first: int,
    layers: int,
    solutions: tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    # Compared last: Ascend slices no booleans.
    return install(GREATER(SLICE(good, (first,), (layers,)), 0), damping, solutions)


def _store(parameters: tuple[Parameter, ...], values: tuple[Tensor, ...]) -> bool:
    _MAP(ASSIGN, parameters, values)
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
    layers accepts. The inverses of a layer that skips, or one of whose matrices failed, stay
    bit-identical.

    With several ranks each solves its own matrices of every batch and fills in zeros for the
    others; their sum over the ranks that share the work is the whole, down to the last bit. It is
    one AllReduce rather than an AllGather because shares are not equal, and because MindSpore's CPU
    back end gathers equal ones only; symmetric solutions travel as triangles, which makes up for
    it. Whether a solution is sound travels with it. The statistics are the same on all ranks, so
    their decisions are, too, and no rank waits for another in vain.

    Args:
        curvatures: one per group.
        share: on how many ranks each matrix is solved.
        name: prefix of the outcomes' names, unique in the training step.
        rule: see :class:`~mindspore_thor.curvature.outcomes.Outcomes`.
    """

    def __init__(
        self,
        curvatures: Sequence[GroupCurvature],
        share: Share = "one",
        name: str = "refresh",
        rule: Any = None,
    ) -> None:
        super().__init__(auto_prefix=False)
        groups = [c for c in curvatures if c.solver]
        others = [c for c in curvatures if not c.solver]
        self.outcomes = Outcomes(name, [*groups, *others], rule)
        first = 0
        for group in [*groups, *others]:
            group.bind(self.outcomes, first)
            first += group.layers
        self.layer_count = first
        self.others = first - sum(group.layers for group in groups)
        self.group_count = len(groups)
        self.selective = any(c.selective for c in groups)
        self.map = ops.Map()
        self.wanted = tuple(c.wanted for c in groups)
        self.candidates = tuple(c.candidates if c.selective else c.no_candidates for c in groups)
        self.firsts = tuple(c.first for c in groups)
        self.problems = tuple(c.problems for c in groups)
        self.install = tuple(c.install for c in groups)
        self.layers = tuple(c.layers for c in groups)
        self.derived = tuple(ParameterTuple(c.derived()) for c in groups)
        self.batches = batches_of(groups)
        self.batch_sizes = tuple(batch.size for batch in self.batches)
        self.batch_numbers = tuple(range(len(self.batches)))
        self.solvers = tuple(solver_of(batch.kind, batch.size) for batch in self.batches)
        # Which of a pair, for every batch: what ops.Map goes through beside the pairs.
        self.first_of_each, self.second_of_each = ((k,) * len(self.batches) for k in (0, 1))
        # Chosen here: a question in the graph is two functions to the compiler.
        self.extended = self.with_others if self.others > 0 else self.alone
        self.judge = self.judge_by_rule if self.outcomes.ruled else self.judge_by_use
        pieces = pieces_of(self.batches, len(groups))
        # What every group's pieces hold, one by one: four tuples, which ops.Map goes through.
        self.pieces = tuple(tuple(tuple(p[k] for p in group) for group in pieces) for k in range(4))
        self.joined, self.joined_batches = joiner(len(groups)), joiner(len(self.batches))
        self.joiners = tuple(joiner(len(batch.groups)) for batch in self.batches)
        owners = owners_of(self.batches, groups)
        self.batch_layers = tuple(Tensor(np.unique(owner).astype(np.int32)) for owner in owners)
        owner = np.concatenate([np.zeros(0, np.int32), *owners])
        # A product counts the failures of every layer; a segment sum has no static shape here.
        self.owned = Tensor((np.arange(first).reshape((-1, 1)) == owner).astype(np.float32))
        self.matrix_count = len(owner)
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

    def judge_by_use(self, damping: Tensor) -> tuple[Tensor, Tensor]:
        """Which layers have something to refresh, int32 [n], twice: there is no trace rule."""
        used = self.extended(self.joined(self.map(call, self.wanted)))
        wanted = CAST(GREATER(used, 0.0), ms.int32)
        return wanted, wanted

    def judge_by_rule(self, damping: Tensor) -> tuple[Tensor, Tensor]:
        """Which layers have something to refresh, int32 [n], and what the trace rule judges."""
        candidates = self.joined(self.map(ops.partial(_pose, damping), self.candidates))
        return ITEM(self.judge_by_use(damping), 0), self.extended(candidates)

    def alone(self, values: Tensor) -> Tensor:
        """Values of all layers, where all are refreshed."""
        return values

    def with_others(self, values: Tensor) -> Tensor:
        """Values of the refreshed groups' layers, and 0 for those of all others."""
        return ops.concat((values, ops.fill(values.dtype, (self.others,), 0.0)))

    def refresh(self, damping: Tensor) -> bool:
        """Solve where the layers decide so, and count what became of it."""
        return self.attempt(damping, False) if self.group_count > 0 else True

    def retry(self, damping: Tensor) -> bool:
        """Solve once more, with this damping, for the layers whose last refresh failed."""
        return self.attempt(damping, True) if self.group_count > 0 else True

    def attempt(self, damping: Tensor, again: bool) -> bool:
        """A refresh, or its second attempt."""
        judged = self.judge(damping)
        wanted, candidates = ITEM(judged, 0), ITEM(judged, 1)
        decisions = self.outcomes.failing() if again else self.outcomes.decide(wanted, candidates)
        sound = self.run(decisions, damping, self.selective or again)
        return self.outcomes.record(decisions, sound, wanted, candidates, again)

    def failed(self) -> Tensor | bool:
        """Whether the last refresh failed for any layer."""
        if self.group_count == 0:
            return False
        return _any(self.outcomes.failing())

    def run(self, decisions: Tensor, damping: Tensor, selective: bool) -> Tensor:
        """Solve and install where a decision, int32 [n], is positive.

        Returns:
            int32 [n]: whether all matrices of a layer were solved.
        """
        # No branch where it saves no message: in one graph the compiler finds that the trace rule
        # and the dampings begin with the same traces.
        if not (selective and self.exchanges):
            return self.work(decisions, damping, selective)
        sound = ops.zeros_like(decisions)
        if _any(decisions):
            sound = self.work(decisions, damping, True)
        return sound

    def work(self, decisions: Tensor, damping: Tensor, selective: bool) -> Tensor:
        """The same without a look at whether there is anything to do."""
        problems = self.map(ops.partial(_pose, damping), self.problems)
        solve = ops.partial(self.solve if selective else self.solve_all, problems, decisions)
        solved = self.map(solve, self.batch_numbers, self.solvers, self.joiners)
        if self.exchanges:
            solved = self.exchange(solved)
        failed = SUB(1.0, self.joined_batches(self.map(ITEM, solved, self.second_of_each)))
        failures = MATMUL(self.owned, failed.reshape((self.matrix_count, 1)))
        sound = CAST(LESS(failures.reshape((self.layer_count,)), 0.5), ms.int32)
        solutions = self.map(ITEM, solved, self.first_of_each)
        found = self.map(ops.partial(_solutions, solutions), *self.pieces)
        install = ops.partial(_install, damping, MUL(decisions, sound))
        values = self.map(install, self.install, self.firsts, self.layers, found)
        # All is read before anything is written: that keeps the graph's chain of effects short.
        self.map(_store, self.derived, values)
        return sound

    def solve_all(
        self, problems: Problems, decisions: Tensor, b: int, solver: Solver, join: Joiner
    ) -> tuple[Tensor, Tensor]:
        """The solutions of one batch."""
        batch = self.batches[b]
        problem = ops.partial(_pick, problems)
        matrices = join(self.map(problem, batch.groups, batch.matrices))
        shifts = join(self.map(problem, batch.groups, batch.shifts))
        return self.solve_own(b, solver, matrices, shifts)

    def solve(
        self, problems: Problems, decisions: Tensor, b: int, solver: Solver, join: Joiner
    ) -> tuple[Tensor, Tensor]:
        """The same; zeros, which no layer takes, where none is wanted."""
        batch = self.batches[b]
        if _any(GATHER(decisions, self.batch_layers[b], 0)):
            found = self.solve_all(problems, decisions, b, solver, join)
        else:
            solved = ops.zeros((batch.number, batch.size, batch.width), ms.float32)
            found = solved, ops.zeros((batch.number,), ms.float32)
        return found

    def solve_own(
        self, b: int, solver: Solver, matrices: Tensor, shifts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """This rank's solutions of one batch, all others zero."""
        batch = self.batches[b]
        if not self.exchanges or self.own_counts[b] == batch.number:
            found = solver(matrices, shifts)
            return ITEM(found, 0), CAST(ITEM(found, 1), ms.float32)
        if self.own_counts[b] == 0:
            empty = ops.zeros((batch.number, batch.size, batch.width), ms.float32)
            return empty, ops.zeros((batch.number,), ms.float32)
        own = self.own[b]
        solved, ok = solver(GATHER(matrices, own, 0), GATHER(shifts, own, 0))
        solved = ops.concat((solved, ops.zeros((1, batch.size, batch.width), ms.float32)))
        ok = ops.concat((CAST(ok, ms.float32), ops.zeros((1,), ms.float32)))
        place = self.places[b]
        return GATHER(solved, place, 0), GATHER(ok, place, 0)

    def exchange(self, solved: tuple[tuple[Tensor, Tensor], ...]) -> tuple[tuple[Tensor, ...], ...]:
        """Everybody's solutions from everybody's own."""
        sent = self.map(_travelling, self.map(ITEM, solved, self.first_of_each))
        came = self.sum(sent + self.map(ITEM, solved, self.second_of_each))
        count = len(self.batches)
        return self.map(_arrived, came[:count], came[count:], self.batch_sizes)
