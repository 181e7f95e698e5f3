"""IDX files: what is read from known bytes, and every way in which they can be wrong."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspore_thor.data import create_data
from mindspore_thor.data.idx import read_idx
from mindspore_thor.errors import UserError


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def write_set(folder: Path, train: int = 12, test: int = 5, zipped: bool = False) -> dict:
    """Write a complete set of random bytes and return its arrays by file stem."""
    generator = np.random.default_rng(7)
    arrays = {}
    for prefix, count in (("train", train), ("t10k", test)):
        arrays[f"{prefix}-images-idx3-ubyte"] = generator.integers(
            0, 256, (count, 28, 28), np.uint8
        )
        arrays[f"{prefix}-labels-idx1-ubyte"] = generator.integers(0, 10, count, np.uint8)
    for stem, array in arrays.items():
        content = idx_bytes(array)
        name = stem + ".gz" if zipped else stem
        (folder / name).write_bytes(gzip.compress(content) if zipped else content)
    return arrays


@given(st.lists(st.integers(0, 7), min_size=1, max_size=3), st.booleans())
def test_any_shape_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, shape: Any, zipped: bool
) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint64).astype(np.uint8).reshape(shape)
    content = idx_bytes(array)
    path = tmp_path_factory.getbasetemp() / ("any.gz" if zipped else "any")
    path.write_bytes(gzip.compress(content) if zipped else content)
    found = read_idx(path, len(shape))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("name", "mean", "std"), [("mnist", 0.1307, 0.3081), ("fashion_mnist", 0.2860, 0.3530)]
)
def test_evaluation_gives_every_image_in_file_order(
    tmp_path: Path, zipped: bool, name: str, mean: Any, std: Any
) -> None:
    arrays = write_set(tmp_path, zipped=zipped)
    data = create_data(name, tmp_path, train=False, batch_size=2)
    assert (data.size, len(data), data.steps_per_epoch) == (5, 3, 3)
    assert (data.num_classes, data.image_shape, data.batch_size) == (10, (1, 28, 28), 2)
    batches = [(x.asnumpy(), y.asnumpy()) for x, y in data.epoch(0)]
    assert [len(y) for _, y in batches] == [2, 2, 1]
    images = np.concatenate([x for x, _ in batches])
    labels = np.concatenate([y for _, y in batches])
    assert (images.dtype, labels.dtype) == (np.float32, np.int32)
    raw = arrays["t10k-images-idx3-ubyte"].astype(np.float64)[:, None]
    np.testing.assert_allclose(images, (raw / 255 - mean) / std, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(labels, arrays["t10k-labels-idx1-ubyte"])


def test_other_spelling_of_the_names(tmp_path: Path) -> None:
    write_set(tmp_path)
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / path.name.replace("-idx", ".idx"))
    assert create_data("mnist", tmp_path, train=True, batch_size=3).size == 12


LABELS, IMAGES = "train-labels-idx1-ubyte", "train-images-idx3-ubyte"


def spoil_magic(path: Path) -> None:
    path.write_bytes(b"\x01" + path.read_bytes()[1:])


def spoil_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def spoil_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:6])


def spoil_longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\x00")


def spoil_empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("name", [LABELS, IMAGES])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_magic, "not an IDX file"),
        (spoil_truncate, "damaged"),
        (spoil_header, "damaged"),
        (spoil_longer, "damaged"),
        (spoil_empty, "not an IDX file"),
        (Path.unlink, "missing"),
    ],
)
def test_spoiled_file_is_named(
    tmp_path: Path, name: str, spoil: Callable[[Path], object], words: str
) -> None:
    write_set(tmp_path)
    spoil(tmp_path / name)
    with pytest.raises(UserError, match=words) as caught:
        create_data("mnist", tmp_path, train=True, batch_size=2)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [5, -4])
def test_broken_gzip_is_named(tmp_path: Path, cut: int) -> None:
    write_set(tmp_path, zipped=True)
    path = tmp_path / (IMAGES + ".gz")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz' cannot be read"):
        create_data("mnist", tmp_path, train=True, batch_size=2)


def test_images_and_labels_must_belong_together(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / LABELS).write_bytes(idx_bytes(np.zeros(11, np.uint8)))
    with pytest.raises(UserError, match=r"12 images, but .* 11 labels"):
        create_data("mnist", tmp_path, train=True, batch_size=2)


def test_other_image_size_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / IMAGES).write_bytes(idx_bytes(np.zeros((12, 28, 27), np.uint8)))
    with pytest.raises(UserError, match="28x27 pixels, expected 28x28"):
        create_data("mnist", tmp_path, train=True, batch_size=2)


def test_label_outside_the_classes(tmp_path: Path) -> None:
    write_set(tmp_path)
    labels = np.arange(12, dtype=np.uint8) % 10
    labels[4] = 10
    (tmp_path / LABELS).write_bytes(idx_bytes(labels))
    with pytest.raises(UserError, match=r"sample 4 has label 10, but there are 10 classes") as got:
        create_data("mnist", tmp_path, train=True, batch_size=2)
    assert str(tmp_path / LABELS) in str(got.value)


def test_num_classes_smaller_than_the_labels(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / LABELS).write_bytes(idx_bytes(np.arange(12, dtype=np.uint8) % 10))
    with pytest.raises(UserError, match=r"sample 7 has label 7, but there are 7 classes"):
        create_data("mnist", tmp_path, train=True, batch_size=2, num_classes=7)
    assert (
        create_data("mnist", tmp_path, train=True, batch_size=2, num_classes=12).num_classes == 12
    )
