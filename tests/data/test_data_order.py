"""Order, shards and augmentation: the exact properties that resume and data parallelism rest on."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import mindspore.dataset as ds
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from mindspore_thor.data import Data, create_data
from mindspore_thor.data.augment import crop_and_flip, random_resized_box
from mindspore_thor.data.order import Order
from mindspore_thor.errors import UserError

SAMPLE = "fashion_mnist_sample"


def numpy_batches(data: Data, index: int, start: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(x.asnumpy().copy(), y.asnumpy().copy()) for x, y in data.epoch(index, start)]


def digest(batches: Any) -> str:
    total = hashlib.sha256()
    for images, labels in batches:
        total.update(images.tobytes())
        total.update(labels.tobytes())
    return total.hexdigest()


sizes = st.integers(1, 60)


@given(sizes, st.integers(0, 2**40), st.integers(0, 50), st.integers(1, 9))
def test_training_shards_are_equal_disjoint_and_cover(
    size: int, seed: int, epoch: int, ranks: int
) -> None:
    shards = [Order(size, seed, True, rank, ranks).indices(epoch) for rank in range(ranks)]
    assert {len(shard) for shard in shards} == {size // ranks}
    together = np.concatenate(shards)
    assert len(np.unique(together)) == len(together) == size - size % ranks
    assert not together.size or (together.min() >= 0 and together.max() < size)


@given(sizes, st.integers(1, 9))
def test_evaluation_shards_hold_every_sample_once(size: int, ranks: int) -> None:
    orders = [Order(size, 0, False, rank, ranks) for rank in range(ranks)]
    together = np.concatenate([order.indices(3) for order in orders])
    assert sorted(together.tolist()) == list(range(size))
    lengths = [len(order) for order in orders]
    assert lengths == [len(order.indices(0)) for order in orders]
    assert max(lengths) - min(lengths) <= 1


@given(sizes, st.integers(0, 99), st.integers(0, 99))
def test_order_depends_on_seed_and_epoch_only(size: int, seed: int, epoch: int) -> None:
    used = Order(size, seed, True)
    for other in (epoch + 1, 0, epoch + 7):
        used.indices(other)
    np.testing.assert_array_equal(
        used.indices(epoch), Order(size, seed, True).indices(epoch), strict=True
    )


def test_epochs_and_seeds_differ() -> None:
    seen = {tuple(Order(40, seed, True).indices(epoch)) for seed in range(5) for epoch in range(5)}
    assert len(seen) == 25


@pytest.mark.parametrize("start", [0, 1, 40, 77, 78])
def test_tail_is_bitwise_the_end_of_the_epoch(start: int) -> None:
    data = create_data(SAMPLE, train=True, batch_size=64, seed=3)
    whole = numpy_batches(data, 2)
    other = create_data(SAMPLE, train=True, batch_size=64, seed=3)
    numpy_batches(other, 5, 76)  # an earlier use must not matter
    tail = numpy_batches(other, 2, start)
    assert (len(whole), len(tail)) == (78, 78 - start)
    assert digest(tail) == digest(whole[start:])


def test_fresh_process_gives_the_same_bits() -> None:
    code = (
        "import hashlib\n"
        "from mindspore_thor.data import create_data\n"
        f"data = create_data('{SAMPLE}', train=True, batch_size=50, seed=11)\n"
        "total = hashlib.sha256()\n"
        "for images, labels in data.epoch(4, 90):\n"
        "    total.update(images.asnumpy().tobytes())\n"
        "    total.update(labels.asnumpy().tobytes())\n"
        "print(total.hexdigest())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    data = create_data(SAMPLE, train=True, batch_size=50, seed=11)
    assert done.stdout.split()[-1] == digest(numpy_batches(data, 4)[90:])


def test_each_epoch_is_augmented_anew() -> None:
    data = create_data(SAMPLE, train=True, batch_size=500, seed=1)
    plain = create_data(SAMPLE, train=True, batch_size=500, seed=1, augment=False)
    first, second, same = (
        np.concatenate([x for x, _ in numpy_batches(one, epoch)])
        for one, epoch in ((data, 0), (data, 1), (plain, 0))
    )
    # Undo the order, which is checked above.
    back = [np.argsort(Order(5000, 1, True).indices(epoch)) for epoch in (0, 1)]
    first, second, same = first[back[0]], second[back[1]], same[back[0]]
    changed = (first != second).any((1, 2, 3)).mean()
    # Two draws agree with probability 1 / 50 (25 places, 2 mirrorings), 5000 images.
    assert 0.96 < changed < 1.0
    kept = (first == same).all((1, 2, 3)).mean()
    assert 0.01 < kept < 0.04


def test_shards_of_one_run_are_parts_of_the_same_images() -> None:
    """A sample is augmented in the same way whichever rank it falls to."""
    whole = create_data(SAMPLE, train=True, batch_size=50, seed=2)
    images = np.concatenate([x for x, _ in numpy_batches(whole, 1)])
    for rank in range(2):
        part = create_data(SAMPLE, train=True, batch_size=50, seed=2, rank=rank, rank_size=2)
        assert (part.size, len(part)) == (2500, 50)
        found = np.concatenate([x for x, _ in numpy_batches(part, 1)])
        np.testing.assert_array_equal(found, images[rank::2])


def test_dataset_runs_through_the_epochs() -> None:
    data = create_data(SAMPLE, train=True, batch_size=1000, seed=5)
    iterator = data.dataset(3).create_dict_iterator(num_epochs=3, output_numpy=True)
    for epoch in (3, 4, 5):
        found = [(row["image"], row["label"]) for row in iterator]
        assert digest(found) == digest(numpy_batches(data, epoch))
    assert data.dataset().get_dataset_size() == len(data) == 5


@pytest.mark.parametrize(("train", "steps"), [(True, 4), (False, 5)])
def test_last_incomplete_batch(train: bool, steps: int) -> None:
    size = 5000 if train else 1000
    batch = size // 4 - 10
    default = create_data(SAMPLE, train=train, batch_size=batch)
    other = create_data(SAMPLE, train=train, batch_size=batch, drop_remainder=not train)
    assert (len(default), len(other)) == (steps, 9 - steps)
    kept = other if train else default
    lengths = [len(y) for _, y in numpy_batches(kept, 0)]
    assert lengths == [batch] * 4 + [40]
    assert kept.dataset().get_dataset_size() == 5


def test_global_settings_stay() -> None:
    settings = [
        ds.config.get_seed,
        ds.config.get_num_parallel_workers,
        ds.config.get_prefetch_size,
        ds.config.get_auto_num_workers,
        ds.config.get_enable_shared_mem,
    ]
    before = [setting() for setting in settings]
    state = np.random.get_state(legacy=False)["state"]["key"].copy()
    numpy_batches(create_data(SAMPLE, train=True, batch_size=1000, seed=5), 0)
    assert [setting() for setting in settings] == before
    np.testing.assert_array_equal(np.random.get_state(legacy=False)["state"]["key"], state)


@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
def test_crop_and_flip_equals_indexing(
    count: int, channels: int, height: int, width: int, padding: int, random: Any
) -> None:
    images = np.arange(1, 1 + count * channels * height * width).reshape(
        count, channels, height, width
    )
    tops = np.array([random.randint(0, 2 * padding) for _ in range(count)])
    lefts = np.array([random.randint(0, 2 * padding) for _ in range(count)])
    flips = np.array([random.random() < 0.5 for _ in range(count)])
    found = crop_and_flip(images, tops, lefts, flips, padding)
    for n, c, i, j in np.ndindex(*images.shape):
        column = width - 1 - j if flips[n] else j
        row, place = i + tops[n] - padding, column + lefts[n] - padding
        inside = 0 <= row < height and 0 <= place < width
        assert found[n, c, i, j] == (images[n, c, row, place] if inside else 0)


@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 10**6))
def test_resized_box_lies_inside(height: int, width: int, seed: int) -> None:
    top, left, rows, columns = random_resized_box(np.random.default_rng(seed), height, width)
    assert rows >= 1 and columns >= 1 and top >= 0 and left >= 0
    assert top + rows <= height and left + columns <= width


def test_resized_box_follows_its_distribution() -> None:
    """With scale <= 0.7 every draw fits a large square, so the area is uniform, the ratio too."""
    generator = np.random.default_rng(0)
    boxes = np.array(
        [random_resized_box(generator, 2000, 2000, scale=(0.1, 0.7)) for _ in range(4000)]
    )
    area = boxes[:, 2] * boxes[:, 3] / 2000**2
    ratio = np.log(boxes[:, 3] / boxes[:, 2])
    # Mean and deviation of a uniform variable; six standard errors.
    for values, low, high in ((area, 0.1, 0.7), (ratio, np.log(3 / 4), np.log(4 / 3))):
        deviation = (high - low) / np.sqrt(12)
        assert abs(values.mean() - (low + high) / 2) < 6 * deviation / np.sqrt(4000)
        assert abs(values.std() - deviation) < 6 * deviation / np.sqrt(4000)
        assert values.min() > low - 0.01 and values.max() < high + 0.01
    # The place is uniform in what is left over.
    for first, length in ((boxes[:, 0], boxes[:, 2]), (boxes[:, 1], boxes[:, 3])):
        share = (first + 0.5) / (2001 - length)
        assert abs(share.mean() - 0.5) < 6 / np.sqrt(12 * 4000)


def test_resized_box_falls_back_to_the_centre() -> None:
    """In a 1000 x 10 strip no aspect ratio near 1 fits with this area: rows = 10 / (3 / 4)."""
    box = random_resized_box(np.random.default_rng(0), 1000, 10, scale=(0.9, 1.0))
    assert box == ((1000 - 13) // 2, 0, 13, 10)
    box = random_resized_box(np.random.default_rng(0), 9, 1000, scale=(0.9, 1.0))
    assert box == (0, (1000 - 12) // 2, 9, 12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "fashion_mnist_sampel"}, "did you mean 'fashion_mnist_sample'"),
        ({"name": "cifar"}, "did you mean 'cifar10'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 1.5}, "batch_size is 1.5"),
        ({"batch_size": True}, "batch_size is True"),
        ({"batch_size": 5001}, "batch_size 5001 is larger than the 5000 training samples"),
        ({"batch_size": 2000, "rank_size": 3}, "larger than the 1666 .* each of 3 processes"),
        ({"seed": -1}, "seed is -1"),
        ({"rank": -1}, "rank is -1"),
        ({"rank": 2, "rank_size": 2}, "rank_size is 2"),
        ({"num_workers": 0}, "num_workers is 0"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"num_classes": 9}, "label 9, but there are 9 classes"),
        ({"image_size": 32}, "image_size 32 does not fit"),
    ],
)
def test_bad_arguments(change: dict[str, Any], words: str) -> None:
    arguments = {"name": SAMPLE, "train": True, "batch_size": 10, **change}
    with pytest.raises(UserError, match=words) as caught:
        create_data(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "imagenet"])
def test_bad_paths(tmp_path: Path, name: str) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = [
        (None, f"'{name}' needs a data path"),
        ("", f"'{name}' needs a data path"),
        (tmp_path / "nowhere", "nowhere' does not exist"),
        (file, "file' is not a folder"),
        (empty, "empty' is empty"),
        (tmp_path, "is missing: expected"),
    ]
    for path, words in cases:
        with pytest.raises(UserError, match=words) as caught:
            create_data(name, path, train=True, batch_size=1)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("index", "start"), [(-1, 0), (0, -1), (0, 6)])
def test_epoch_out_of_range(index: int, start: int) -> None:
    data = create_data(SAMPLE, train=True, batch_size=1000)
    with pytest.raises(ValueError, match=f"epoch {index}, start {start}"):
        data.epoch(index, start)
