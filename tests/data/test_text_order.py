"""Batches of pairs of one length: what resume, ranks and FNGD's slots rest on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspore_thor.data.text.order import BucketOrder, buckets_of

placements = st.lists(st.integers(-1, 3), min_size=1, max_size=80).map(np.array)


def batches(order: BucketOrder, epoch: int) -> list[tuple[int, list[int], int]]:
    found = (order.batch(epoch, step) for step in range(len(order)))
    return [(bucket, rows.tolist(), used) for bucket, rows, used in found]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.booleans())
def test_a_pair_goes_to_the_first_bucket_that_holds_it(lengths: list[int], clip: bool) -> None:
    boundaries = (4, 9, 20)
    expected = [
        next((i for i, most in enumerate(boundaries) if length <= most), 2 if clip else -1)
        for length in lengths
    ]
    assert buckets_of(np.array(lengths), boundaries, clip=clip).tolist() == expected


@given(placements, st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**60))
def test_training_batches_are_whole_and_of_one_bucket(
    placed: Any, batch_size: int, ranks: int, seed: int
) -> None:
    orders = [BucketOrder(placed, 4, batch_size, seed, True, rank, ranks) for rank in range(ranks)]
    whole = batch_size * ranks
    usable = int((placed >= 0).sum())
    steps = sum(orders[0].batches)
    assert {len(order) for order in orders} == {steps}
    assert steps == usable // whole and orders[0].left_out == usable % whole
    assert orders[0].used() == steps * batch_size
    for epoch in (0, 7):
        found = [batches(order, epoch) for order in orders]
        buckets = [bucket for bucket, _, _ in found[0]]
        # The same number of each bucket in each epoch, and the same bucket on all ranks.
        assert np.bincount(buckets, minlength=4).tolist() == list(orders[0].batches)
        assert all([bucket for bucket, _, _ in other] == buckets for other in found)
        rows = [row for other in found for _, part, _ in other for row in part]
        assert len(rows) == len(set(rows)) == steps * whole
        for other in found:
            for bucket, part, used in other:
                assert used == len(part) == batch_size
                assert all(0 <= placed[row] <= bucket for row in part)


@given(placements, st.integers(1, 4), st.integers(1, 3))
def test_the_ranks_parts_make_up_the_batch_of_one_process(
    placed: Any, batch_size: int, ranks: int
) -> None:
    for shuffle in (True, False):
        whole = batches(BucketOrder(placed, 4, batch_size * ranks, 5, shuffle), 3)
        parts = [
            batches(BucketOrder(placed, 4, batch_size, 5, shuffle, rank, ranks), 3)
            for rank in range(ranks)
        ]
        for step, (bucket, rows, used) in enumerate(whole):
            assert [row for part in parts for row in part[step][1]] == rows
            assert sum(part[step][2] for part in parts) == used
            assert {part[step][0] for part in parts} == {bucket}


@given(placements, st.integers(1, 5), st.integers(1, 3))
def test_evaluation_has_every_pair_once(placed: Any, batch_size: int, ranks: int) -> None:
    placed = np.abs(placed)  # evaluation leaves nothing out
    orders = [BucketOrder(placed, 4, batch_size, 0, False, rank, ranks) for rank in range(ranks)]
    assert {len(order) for order in orders} == {-(-len(placed) // (batch_size * ranks))}
    assert {order.left_out for order in orders} == {0}
    seen = []
    for order in orders:
        for bucket, rows, used in batches(order, 0):
            assert len(rows) == batch_size
            assert all(placed[row] <= bucket for row in rows)  # repeated ones, too, are real
            seen += rows[:used]
        assert batches(order, 0) == batches(order, 4)
        assert order.used() == sum(used for _, _, used in batches(order, 0))
    assert sorted(seen) == list(range(len(placed)))


def test_the_order_is_a_function_of_seed_and_epoch_alone() -> None:
    placed = np.arange(200) % 3
    order = BucketOrder(placed, 3, 4, 11, True)
    forwards = [batches(order, epoch) for epoch in range(4)]
    other = BucketOrder(placed, 3, 4, 11, True)
    assert [batches(other, epoch) for epoch in (3, 0, 2, 1)] == [
        forwards[epoch] for epoch in (3, 0, 2, 1)
    ]
    assert other.batch(2, 5)[1].tolist() == forwards[2][5][1]
    assert len({str(epoch) for epoch in forwards}) == 4
    assert batches(BucketOrder(placed, 3, 4, 12, True), 0) != forwards[0]
    # Batches of all buckets are mixed: the order of the buckets is not the same in each epoch.
    assert len({str([bucket for bucket, _, _ in epoch]) for epoch in forwards}) == 4


def test_what_a_bucket_cannot_fill_goes_up_and_little_is_left_out() -> None:
    placed = np.repeat([0, 1, 2], [7, 2, 8])  # 7 = 4 + 3; 3 + 2 = 4 + 1; 1 + 8 = 2 * 4 + 1
    order = BucketOrder(placed, 3, 4, 0, True)
    assert order.batches == (1, 1, 2) and order.left_out == 1
    left_out = [
        set(range(17)) - {row for _, rows, _ in batches(order, epoch) for row in rows}
        for epoch in range(40)
    ]
    assert all(len(rest) == 1 for rest in left_out)
    assert len(set.union(*left_out)) > 3  # another pair in each epoch


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_corpus_below_one_batch(shuffle: bool) -> None:
    order = BucketOrder(np.array([1, 0, 1]), 4, 5, 0, shuffle)
    if shuffle:
        assert len(order) == 0 and order.left_out == 3
    else:
        assert batches(order, 0) == [(1, [1, 0, 2, 2, 2], 3)]
