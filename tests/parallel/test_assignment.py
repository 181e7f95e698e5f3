"""Who inverts what: balance, teams, and what every choice costs. No processes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindspore_thor import UserError
from mindspore_thor.parallel.assignment import assign, choices, packed_length
from mindspore_thor.parallel.communication import messages

SIZES = st.lists(st.integers(1, 600), min_size=1, max_size=60)


@settings(deadline=None, max_examples=60)
@given(SIZES, st.integers(1, 24))
def test_every_matrix_has_one_owner_and_no_rank_is_overloaded(sizes, ranks) -> None:
    plan = assign(sizes, ranks)
    owned = sorted(i for rank in range(ranks) for i in plan.of(rank))
    assert owned == list(range(len(sizes)))
    costs = [d**3 for d in sizes]
    # Graham's bound for LPT: 4/3 of the optimum, which is at least the mean and the largest one.
    # Where fewer matrices than ranks are, one each is the optimum.
    pairs = sorted(costs)[-ranks - 1 :] if len(costs) > ranks else []
    optimum = max(sum(costs) / ranks, max(costs), sum(pairs[:2]) if pairs else 0)
    assert max(plan.loads()) <= 4 / 3 * optimum + 1e-6


def test_equal_blocks_are_spread_evenly() -> None:
    """THOR's blocks: 1152 of 128 on 8 ranks are 144 each."""
    assert set(assign([128] * 1152, 8).loads()) == {144 * 128**3}


@pytest.mark.parametrize(
    ("share", "workers", "team"),
    [("one", 8, range(8)), ("all", 1, [5]), (1, 8, range(8)), (8, 1, [5]), (2, 4, range(4, 8))],
)
def test_teams(share, workers, team) -> None:
    plan = assign([64, 32, 16, 8], 8, share)
    assert plan.workers == workers
    assert plan.team(5) == tuple(team)
    # A team as a whole solves everything once.
    assert sorted(i for rank in plan.team(5) for i in plan.of(rank)) == [0, 1, 2, 3]


@pytest.mark.parametrize("share", [3, 0, -1, "some", 1.0, True])
def test_a_share_that_does_not_fit_is_refused(share) -> None:
    with pytest.raises(UserError, match="inverse_share"):
        assign([4], 8, share)


def test_the_assignment_can_be_read() -> None:
    text = str(assign([10, 10, 10], 2))
    assert text.splitlines() == [
        "3 matrices, 2 ranks in teams of 2",
        "worker 0: 66.7 % of the work: 2 x 10",
        "worker 1: 33.3 % of the work: 1 x 10",
    ]


def test_choices_by_hand() -> None:
    """Four matrices of 2: triangles of 3 numbers, 4 bytes each."""
    rows = {(c.ranks, c.share): c for c in choices([2] * 4, (2, 4), ("all", "one", 2, 3))}
    assert set(rows) == {(2, "all"), (4, "all"), (2, "one"), (4, "one"), (2, 2), (4, 2)}
    everything = rows[4, "all"]
    assert (everything.largest, everything.speedup) == (32, 1.0)
    assert (everything.workspace, everything.traffic) == (64, 0)
    single = rows[4, "one"]
    assert (single.largest, single.speedup, single.workspace) == (8, 4.0, 16)
    assert single.traffic == 2 * 48 * 3 // 4
    pair = rows[4, 2]  # teams of two
    assert (pair.largest, pair.traffic) == (16, 48)


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_packed_length(size) -> None:
    even = size + size % 2
    assert packed_length(size) == len(np.triu_indices(even)[0])


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), max_size=30), st.integers(4, 200))
def test_messages_cover_everything_within_the_limit(lengths, limit) -> None:
    ranges = messages(lengths, limit)
    assert [i for a, b in ranges for i in range(a, b)] == list(range(len(lengths)))
    for a, b in ranges:
        assert 4 * sum(lengths[a:b]) <= limit or b == a + 1
    # No two neighbours would have fitted into one.
    for (a, b), (_, d) in zip(ranges, ranges[1:]):
        assert 4 * (sum(lengths[a:b]) + lengths[b]) > limit, d
