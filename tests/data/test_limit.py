"""A shorter training: which samples it takes, of images, of sentence pairs and of running text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parallel import OPTIONS, corpus
from parallel import opened as opened_pairs

from mindspore_thor.data import create_data
from mindspore_thor.data.language import create_language
from mindspore_thor.data.order import limited, split_off
from mindspore_thor.errors import UserError


@given(
    st.lists(st.integers(0, 999), max_size=60, unique=True), st.integers(0, 80), st.integers(0, 80)
)
def test_a_smaller_limit_takes_some_of_what_a_larger_one_takes(
    samples: list[int], one: int, other: int
) -> None:
    given_samples = np.array(sorted(samples), np.int64)
    small, large = (limited(given_samples, limit).tolist() for limit in sorted((one, other)))
    for limit, found in zip(sorted((one, other)), (small, large)):
        assert len(found) == (min(limit, len(samples)) if limit else len(samples))
        assert set(found) <= set(samples) and found == sorted(found)
    assert set(small) <= set(large) or not min(one, other)


def test_the_samples_are_spread_over_the_set() -> None:
    """Files are often sorted by class. Here each tenth has about 500."""
    counts = np.bincount(limited(np.arange(50_000), 5_000) // 5_000, minlength=10)
    # Hypergeometric: mean 500, standard deviation sqrt(5000 x 0.1 x 0.9 x 0.9) = 20.
    assert counts.min() > 500 - 5 * 20 and counts.max() < 500 + 5 * 20


def labels_of(folder: Path, *, train: bool, held_out: int, limit: int, seed: int = 0) -> list[int]:
    data = create_data(
        "mnist",
        folder,
        train=train,
        batch_size=1,
        seed=seed,
        augment=False,
        validation=held_out,
        limit=limit,
    )
    return [int(y.asnumpy()[0]) for _, y in data.epoch(0)]


@pytest.mark.parametrize("held_out", [0, 9])
def test_images(mnist_folder: Path, held_out: int) -> None:
    labels = np.fromfile(mnist_folder / "train-labels-idx1-ubyte", np.uint8, offset=8)
    kept, out = split_off(40, held_out)
    chosen = sorted(labels[limited(kept, 12)].tolist())
    for seed in (1, 2):
        found = labels_of(mnist_folder, train=True, held_out=held_out, limit=12, seed=seed)
        assert sorted(found) == chosen
    # What judges an epoch is not made smaller.
    if held_out:
        found = labels_of(mnist_folder, train=False, held_out=held_out, limit=12)
        assert found == labels[out].tolist()
    else:
        found = labels_of(mnist_folder, train=False, held_out=0, limit=2)
        assert len(found) == len(labels_of(mnist_folder, train=False, held_out=0, limit=0)) > 2


def test_sentence_pairs(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "corpus")

    def pairs(limit: int) -> tuple[set[tuple[object, object]], int]:
        data = opened_pairs(folder, batch_size=1, options=replace(OPTIONS, limit=limit))
        found = [
            (tuple(filter(None, x.asnumpy()[0].tolist())), tuple(y.asnumpy()[0].tolist()))
            for x, y, _ in data.epoch(0)
        ]
        assert len(found) == data.size
        return {(one, tuple(filter(None, other))) for one, other in found}, data.dropped.beyond

    whole, beyond = pairs(0)
    assert beyond == 0
    usable = opened_pairs(folder, batch_size=1).size
    fifty, beyond = pairs(50)
    # The toy corpus repeats some pairs, so that a set may be smaller than the number of its pairs.
    assert beyond == usable - 50 and fifty < whole and len(fifty) <= 50
    assert pairs(20)[0] < fifty
    valid = [
        opened_pairs(folder, "valid", options=replace(OPTIONS, limit=limit)).size
        for limit in (0, 5)
    ]
    assert valid == [23, 23]


def test_running_text() -> None:
    def blocks(limit: int, split: str = "train") -> list[bytes]:
        data = create_language(
            "toy_text", None, split=split, batch_size=1, block=7, characters=1500, limit=limit
        )
        assert data.blocks == len(data) == data.steps_per_epoch
        return sorted(batch.ids.asnumpy().tobytes() for batch in data.epoch(0))

    whole = blocks(0)
    # 1350 characters: 192 blocks; the validation split has ten of its 75.
    assert len(whole) == 192 and len(blocks(500)) == 192
    some = blocks(30)
    assert len(some) == 30 and all(whole.count(one) >= some.count(one) for one in some)
    assert len(blocks(4, "valid")) == 10


def test_a_limit_below_a_batch_and_one_that_is_no_number(
    mnist_folder: Path, tmp_path: Path
) -> None:
    arguments = {"train": True, "batch_size": 8}
    message = r"batch_size 8 is larger than the 5 training samples .* or a larger limit"
    with pytest.raises(UserError, match=message):
        create_data("mnist", mnist_folder, limit=5, **arguments)
    with pytest.raises(UserError, match=r"than the 5 blocks .* or a larger limit"):
        create_language(
            "toy_text", None, split="train", batch_size=8, block=7, characters=1500, limit=5
        )
    folder = corpus(tmp_path / "corpus")
    with pytest.raises(UserError, match=r"than the 3 training pairs .* or a larger limit"):
        opened_pairs(folder, options=replace(OPTIONS, limit=3))
    for limit in (-1, 2.5):
        with pytest.raises(UserError, match="limit"):
            create_data("mnist", mnist_folder, limit=limit, **arguments)
        with pytest.raises(UserError, match="limit"):
            create_language("toy_text", None, split="train", batch_size=1, limit=limit)
    with pytest.raises(UserError, match="limit"):
        replace(OPTIONS, limit=-1).check()
