"""Who inverts what: plain Python, so that it can be printed and tested without processes.

The unit of work is one matrix (a block of THOR's split factors counts as one): layers differ in
cost by a factor of a thousand, blocks hardly do. An inverse or a decomposition of a d x d matrix
costs d^3, and the largest remaining one always goes to the rank with the least work (LPT).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

from mindspore_thor.errors import UserError, quoted

Share = Union[str, int]
"""``"one"``: each matrix on one rank; ``"all"``: on every rank; k: on k ranks."""

_FLOAT = 4


def check_share(share: Share) -> Share:
    """``share`` itself.

    Raises:
        UserError: where it is neither "one", "all" nor a positive whole number.
    """
    whole = isinstance(share, int) and not isinstance(share, bool) and 0 < share < 2**31
    if not whole and not (isinstance(share, str) and share in ("one", "all")):
        raise UserError(
            f"inverse_share={quoted(share)}: use 'one', 'all', or on how many ranks each matrix is "
            "inverted"
        )
    return share


def workers_of(ranks: int, share: Share) -> int:
    """How many ranks divide the work among them and exchange the results.

    Raises:
        UserError: where that many copies do not divide the ranks evenly.
    """
    check_share(share)
    copies = share if isinstance(share, int) else {"one": 1, "all": ranks}[share]
    if ranks % copies:
        raise UserError(
            f"inverse_share={share}: {ranks} ranks cannot be divided into {copies} equal teams; "
            "use a divisor of the number of ranks"
        )
    return ranks // copies


@dataclass(frozen=True)
class Assignment:
    """Which worker of a team solves which matrix.

    The ranks form teams of ``workers`` consecutive ranks; every team solves everything.

    Attributes:
        sizes: d of every matrix.
        ranks: how many there are.
        workers: ranks in a team.
        owners: worker of every matrix.
    """

    sizes: tuple[int, ...]
    ranks: int
    workers: int
    owners: tuple[int, ...]

    def of(self, rank: int) -> tuple[int, ...]:
        """The matrices that a rank solves, in their order."""
        worker = rank % self.workers
        return tuple(i for i, owner in enumerate(self.owners) if owner == worker)

    def team(self, rank: int) -> tuple[int, ...]:
        """The ranks that exchange results with a rank, itself included."""
        first = rank - rank % self.workers
        return tuple(range(first, first + self.workers))

    def loads(self) -> tuple[int, ...]:
        """Sum of d^3 per worker."""
        loads = [0] * self.workers
        for size, owner in zip(self.sizes, self.owners):
            loads[owner] += size**3
        return tuple(loads)

    def __str__(self) -> str:
        loads = self.loads()
        whole = max(sum(loads), 1)
        lines = [f"{len(self.sizes)} matrices, {self.ranks} ranks in teams of {self.workers}"]
        for worker, load in enumerate(loads):
            own = [self.sizes[i] for i in self.of(worker)]
            sizes = ", ".join(f"{own.count(d)} x {d}" for d in sorted(set(own), reverse=True))
            lines.append(f"worker {worker}: {100 * load / whole:.1f} % of the work: {sizes or '-'}")
        return "\n".join(lines)


def assign(sizes: Sequence[int], ranks: int, share: Share = "one") -> Assignment:
    """Divide matrices among ranks.

    Args:
        sizes: d of every matrix.
        ranks: how many there are.
        share: on how many ranks each matrix is solved.

    Returns:
        The assignment; the same on every rank.

    Raises:
        UserError: for a share that does not fit the ranks.
    """
    workers = workers_of(ranks, share)
    owners = [0] * len(sizes)
    heap = [(0, worker) for worker in range(workers)]
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        load, worker = heapq.heappop(heap)
        owners[i] = worker
        heapq.heappush(heap, (load + sizes[i] ** 3, worker))
    return Assignment(tuple(sizes), ranks, workers, tuple(owners))


def packed_length(size: int) -> int:
    """Numbers that a symmetric matrix travels as: a triangle, of an even dimension."""
    even = size + size % 2
    return even * (even + 1) // 2


@dataclass(frozen=True)
class Choice:
    """What one choice of ``share`` costs.

    Attributes:
        ranks: how many there are.
        share: the choice.
        largest: the largest sum of d^3 on a rank.
        speedup: the work of one process over that.
        workspace: bytes of the matrices that the busiest rank solves.
        traffic: bytes that a rank sends in one refresh (ring AllReduce of the zero-filled whole).
    """

    ranks: int
    share: Share
    largest: int
    speedup: float
    workspace: int
    traffic: int


def choices(
    sizes: Sequence[int],
    ranks: Sequence[int] = (8, 128, 256),
    shares: Sequence[Share] = ("all", "one"),
    symmetric: bool = True,
) -> list[Choice]:
    """Cost of every choice at every number of ranks.

    Every rank keeps all solutions whatever the choice: it preconditions all layers.

    Args:
        sizes: d of every matrix.
        ranks: numbers of ranks.
        shares: choices; a number of copies that does not divide the ranks is left out.
        symmetric: whether solutions are symmetric (inverses and roots) and travel as triangles;
            eigenvalues and eigenvectors are d (d + 1) numbers.
    """
    whole = sum(d**3 for d in sizes)
    length = sum(packed_length(d) if symmetric else d * (d + 1) for d in sizes)
    rows = []
    for count in ranks:
        for share in shares:
            if isinstance(share, int) and count % share:
                continue
            plan = assign(sizes, count, share)
            loads = plan.loads()
            own: list[int] = [0] * plan.workers
            for d, owner in zip(plan.sizes, plan.owners):
                own[owner] += _FLOAT * d * d
            traffic = 2 * _FLOAT * length * (plan.workers - 1) // plan.workers
            largest = max(loads)
            rows.append(Choice(count, share, largest, whole / max(largest, 1), max(own), traffic))
    return rows
