"""Held-out training images: which they are, and that nothing is trained on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mindspore_thor.data import Data, create_data
from mindspore_thor.data.order import Order, split_off
from mindspore_thor.errors import UserError


def opened(folder: Path, *, train: bool, held_out: int, rank: int = 0, ranks: int = 1) -> Data:
    return create_data(
        "mnist",
        folder,
        train=train,
        batch_size=1,
        seed=4,
        augment=False,
        rank=rank,
        rank_size=ranks,
        validation=held_out,
    )


def images_of(*parts: Data, epoch: int = 0) -> list[bytes]:
    return [x.asnumpy().tobytes() for part in parts for x, _ in part.epoch(epoch)]


def labels_of(data: Data) -> list[int]:
    return [int(y.asnumpy()[0]) for _, y in data.epoch(0)]


@given(st.integers(1, 200), st.data())
def test_every_sample_is_in_one_part(size: int, data: st.DataObject) -> None:
    held_out = data.draw(st.integers(0, size - 1))
    kept, out = split_off(size, held_out)
    assert (len(kept), len(out)) == (size - held_out, held_out)
    assert sorted([*kept, *out]) == list(range(size))
    assert list(kept) == sorted(kept) and list(out) == sorted(out)


def test_the_held_out_samples_are_spread_over_the_files() -> None:
    """Files are often sorted: 5,000 in a row could be one class. Here each tenth has about 500."""
    _, out = split_off(50_000, 5_000)
    counts = np.bincount(out // 5_000, minlength=10)
    # Hypergeometric: mean 500, standard deviation sqrt(5000 x 0.1 x 0.9 x 0.9) = 20.
    assert counts.min() > 500 - 5 * 20 and counts.max() < 500 + 5 * 20


def test_the_parts_together_are_the_training_images(mnist_folder: Path) -> None:
    whole = images_of(opened(mnist_folder, train=True, held_out=0))
    kept = opened(mnist_folder, train=True, held_out=9)
    out = opened(mnist_folder, train=False, held_out=9)
    assert (kept.size, out.size) == (31, 9)
    assert len(set(whole)) == 40  # no two are equal, so that the next line means something
    assert sorted(images_of(kept, out)) == sorted(whole)
    assert sorted(images_of(kept, epoch=3)) == sorted(images_of(kept))


def test_order_and_labels_are_those_of_the_chosen_images(mnist_folder: Path) -> None:
    labels = np.fromfile(mnist_folder / "train-labels-idx1-ubyte", np.uint8, offset=8)
    chosen, out = split_off(40, 9)
    expected = labels[chosen][Order(31, 4, True).indices(0)]
    assert labels_of(opened(mnist_folder, train=True, held_out=9)) == expected.tolist()
    assert labels_of(opened(mnist_folder, train=False, held_out=9)) == labels[out].tolist()


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_both_parts(mnist_folder: Path, ranks: int) -> None:
    for train, held_out, size in ((True, 10, 30), (False, 10, 10)):
        alone = images_of(opened(mnist_folder, train=train, held_out=held_out))
        shares = [
            opened(mnist_folder, train=train, held_out=held_out, rank=rank, ranks=ranks)
            for rank in range(ranks)
        ]
        assert len(alone) == size
        assert sorted(images_of(*shares)) == sorted(alone)


def test_an_epoch_begins_anywhere(mnist_folder: Path) -> None:
    kept = opened(mnist_folder, train=True, held_out=9)
    whole = images_of(kept, epoch=2)
    assert [x.asnumpy().tobytes() for x, _ in kept.epoch(2, start=7)] == whole[7:]


def test_folders_of_images_are_split_as_well(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("val", 1)):
        for k in range(count):
            for name in ("n01", "n02"):
                path = tmp_path / split / name / f"{k}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (20 * k, 0, 0)).save(path)
    parts = [
        create_data("imagenet", tmp_path, train=train, batch_size=1, image_size=8, validation=5)
        for train in (True, False)
    ]
    # Files are sorted by class: six of the first, six of the second.
    for part, chosen in zip(parts, split_off(12, 5)):
        assert sorted(labels_of(part)) == [int(index >= 6) for index in chosen]


@pytest.mark.parametrize(
    ("held_out", "word"), [(40, "leaves none of the 40 training"), (-1, "validation")]
)
def test_a_split_that_cannot_be_is_refused(mnist_folder: Path, held_out: int, word: str) -> None:
    for train in (True, False):
        with pytest.raises(UserError, match=word):
            opened(mnist_folder, train=train, held_out=held_out)
