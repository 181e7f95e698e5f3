"""ImageNet-style folder trees: labels, pixels, exactness, and trees with something wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mindspore_thor.data import Data, create_data, user_error_in
from mindspore_thor.errors import UserError

MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])
CLASSES = ("n01", "n02", "n10")


def make_tree(root: Path, train: int = 4, val: int = 2) -> None:
    """Write JPEGs of random sizes: smooth colours, so that JPEG's loss plays no part."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for name in CLASSES:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = generator.integers(40, 90, 2)
                colours = generator.integers(0, 256, (4, 4, 3), np.uint8)
                image = Image.fromarray(colours).resize(
                    (int(width), int(height)), Image.Resampling.BICUBIC
                )
                image.save(folder / f"{name}_{number}.JPEG", quality=95)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    make_tree(tmp_path)
    return tmp_path


def normalised(image: np.ndarray) -> np.ndarray:
    """Return uint8 [H, W, 3] as float64 [3, H, W], normalised as the zoo does."""
    return ((image.astype(np.float64) / 255 - MEAN) / STD).transpose(2, 0, 1)


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize [H, W, 3] with half-pixel centres, clamped edges and no smoothing, in float64."""
    result = image.astype(np.float64)
    for axis, length in ((0, height), (1, width)):
        size = result.shape[axis]
        place = np.clip((np.arange(length) + 0.5) * size / length - 0.5, 0, size - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, size - 1)
        weight = (place - low).reshape([-1 if a == axis else 1 for a in range(3)])
        result = result.take(low, axis) * (1 - weight) + result.take(high, axis) * weight
    return result


def everything(data: Data, index: int = 0, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    batches = [(x.asnumpy(), y.asnumpy()) for x, y in data.epoch(index, start)]
    return np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches])


def test_evaluation_pixels(tree: Path) -> None:
    data = create_data("imagenet", tree, train=False, batch_size=4, image_size=28, num_workers=2)
    assert (data.size, len(data), data.num_classes) == (6, 2, 3)
    assert data.image_shape == (3, 28, 28)
    images, labels = everything(data)
    assert (images.dtype, labels.dtype) == (np.float32, np.int32)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    files = sorted((tree / "val").rglob("*.JPEG"))
    for found, file in zip(images, files):
        with Image.open(file) as opened:
            raw = np.asarray(opened)
        # 28 * 256 / 224 = 32 on the shorter side, then the central 28 x 28.
        height, width = raw.shape[:2]
        short = min(height, width)
        size = (32 * height // short, 32 * width // short)
        resized = bilinear(raw, *size)
        top, left = (size[0] - 28) // 2, (size[1] - 28) // 2
        expected = normalised(resized[top : top + 28, left : left + 28])
        # One grey level of rounding in the resized bytes.
        np.testing.assert_allclose(found, expected, rtol=0, atol=1.01 / 255 / STD.min())


@pytest.mark.parametrize(("image_size", "edge"), [(28, 32), (224, 256)])
def test_evaluation_is_exact_where_nothing_is_scaled(
    tmp_path: Path, image_size: int, edge: int
) -> None:
    raw = np.random.default_rng(1).integers(0, 256, (edge, edge + 10, 3), np.uint8)
    (tmp_path / "val/a").mkdir(parents=True)
    Image.fromarray(raw).save(tmp_path / "val/a/x.png")
    Image.fromarray(raw[:, :, 0]).save(tmp_path / "val/a/y.png")  # grey becomes RGB
    data = create_data("imagenet", tmp_path, train=False, batch_size=2, image_size=image_size)
    images, _ = everything(data)
    grey = np.repeat(raw[:, :, :1], 3, 2)
    top = (edge - image_size) // 2
    for found, image in zip(images, (raw, grey)):
        cut = image[top : top + image_size, top + 5 : top + 5 + image_size]
        np.testing.assert_allclose(found, normalised(cut), rtol=0, atol=2e-6)


def test_default_size_is_224(tree: Path) -> None:
    data = create_data("imagenet", tree, train=True, batch_size=2)
    assert data.image_shape == (3, 224, 224)
    images, _ = next(data.epoch(0))
    assert images.shape == (2, 3, 224, 224)


def test_training_cuts_scales_and_mirrors(tmp_path: Path) -> None:
    """Red grows to the right and green downwards, so each pixel tells where it was cut from."""
    rows, columns = np.mgrid[0:200, 0:240]
    raw = np.stack([columns, rows, np.full_like(rows, 77)], 2).astype(np.uint8)
    (tmp_path / "train/a").mkdir(parents=True)
    for number in range(40):
        Image.fromarray(raw).save(tmp_path / f"train/a/{number:02}.png")
    images, _ = everything(
        create_data("imagenet", tmp_path, train=True, batch_size=40, image_size=16)
    )
    pixels = (images.astype(np.float64) * STD[:, None, None] + MEAN[:, None, None]) * 255
    assert np.abs(pixels[:, 2] - 77).max() < 0.01
    # Columns of a mirrored cut run backwards; rows never do.
    slope_x = (pixels[:, 0, :, -1] - pixels[:, 0, :, 0]).mean(1) / 15
    slope_y = (pixels[:, 1, -1] - pixels[:, 1, 0]).mean(1) / 15
    assert (slope_y > 0).all()
    assert 5 < (slope_x < 0).sum() < 35
    # The slope is the box's length / 16; its area and ratio must be within the zoo's limits.
    width, height = 16 * np.abs(slope_x), 16 * slope_y
    share, ratio = width * height / (200 * 240), width / height
    assert share.min() > 0.06 and share.max() < 1.03 and share.std() > 0.15
    assert ratio.min() > 0.70 and ratio.max() < 1.43 and ratio.std() > 0.1


def test_without_augmentation_training_cuts_the_centre(tree: Path) -> None:
    train = create_data("imagenet", tree, train=True, batch_size=12, augment=False, image_size=28)
    shutil.rmtree(tree / "val")
    shutil.copytree(tree / "train", tree / "val")
    val = create_data("imagenet", tree, train=False, batch_size=12, image_size=28)
    (found, labels), (expected, _) = everything(train), everything(val)
    assert sorted(labels.tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    assert sorted(x.tobytes() for x in found) == sorted(x.tobytes() for x in expected)


def test_exact_from_any_step_with_any_number_of_workers(tree: Path) -> None:
    def make(workers: int) -> Data:
        return create_data(
            "imagenet", tree, train=True, batch_size=2, seed=4, image_size=20, num_workers=workers
        )

    images, labels = everything(make(1), 3)
    assert len(labels) == 12
    used = make(2)
    everything(used, 0)
    for start in (0, 1, 5):
        tail, tail_labels = everything(used, 3, start)
        np.testing.assert_array_equal(tail, images[2 * start :])
        np.testing.assert_array_equal(tail_labels, labels[2 * start :])
    assert list(used.epoch(3, 6)) == []
    assert (everything(used, 4)[0] != images).any()


def test_shards_and_dropped_rest(tree: Path) -> None:
    parts = [
        create_data(
            "imagenet", tree, train=True, batch_size=4, image_size=8, rank=rank, rank_size=2
        )
        for rank in range(2)
    ]
    assert [(part.size, len(part)) for part in parts] == [(6, 1), (6, 1)]
    assert parts[0].dataset().get_dataset_size() == 1
    assert [len(everything(part)[1]) for part in parts] == [4, 4]
    kept = create_data(
        "imagenet", tree, train=True, batch_size=5, image_size=8, drop_remainder=False
    )
    assert (len(kept), len(everything(kept)[1])) == (3, 12)
    assert len(everything(kept, 0, 2)[1]) == 2


def test_dataset_runs_through_the_epochs(tree: Path) -> None:
    data = create_data("imagenet", tree, train=True, batch_size=5, image_size=8)
    iterator = data.dataset(1).create_tuple_iterator(num_epochs=2, output_numpy=True)
    for epoch in (1, 2):
        found = np.concatenate([images for images, _ in iterator])
        np.testing.assert_array_equal(found, everything(data, epoch)[0])


def fails(tree: Path, words: str, **options: Any) -> None:
    options = {"train": True, "batch_size": 2, **options}
    with pytest.raises(UserError, match=words) as caught:
        create_data("imagenet", tree, **options)
    assert "\n" not in str(caught.value)


def test_split_is_missing(tree: Path) -> None:
    shutil.rmtree(tree / "val")
    fails(tree, r"val' is missing", train=False)
    assert create_data("imagenet", tree, train=True, batch_size=2).num_classes == 3


def test_split_without_classes(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/loose.jpg").write_bytes(b"x")
    fails(tmp_path, "has no class folders")


@pytest.mark.parametrize(("split", "where"), [("train", "val"), ("val", "train")])
def test_classes_differ(tree: Path, split: str, where: str) -> None:
    shutil.rmtree(tree / split / "n02")
    fails(tree, f"differ in 1 folder.*'n02', only in {where}")


def test_class_folder_without_images(tree: Path) -> None:
    for path in (tree / "train/n02").iterdir():
        path.unlink()
    (tree / "train/n02/readme.txt").write_text("none")
    fails(tree, r"class folder '.*n02' has no images")


def test_empty_file_is_found_at_the_start(tree: Path) -> None:
    (tree / "train/n10/n10_1.JPEG").write_bytes(b"")
    fails(tree, r"n10_1\.JPEG' is an empty file")


def test_model_with_fewer_classes(tree: Path) -> None:
    fails(tree, "has 3 classes, more than num_classes 2", num_classes=2)
    assert create_data("imagenet", tree, train=True, batch_size=2, num_classes=9).num_classes == 9


def test_batch_larger_than_the_data(tree: Path) -> None:
    fails(tree, "batch_size 13 is larger than the 12 training samples", batch_size=13)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", ["truncated", "text", "gone"])
def test_unreadable_image_is_named_when_it_is_met(tree: Path, workers: int, kind: str) -> None:
    path = tree / "train/n02/n02_2.JPEG"
    data = create_data("imagenet", tree, train=True, batch_size=3, num_workers=workers)
    content = path.read_bytes()
    if kind == "gone":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if kind == "truncated" else b"not an image")
    with pytest.raises(UserError, match=r"n02_2\.JPEG' cannot be read as an image") as caught:
        everything(data)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    # The dataset for ms.Model raises MindSpore's own error, which still holds the line.
    with pytest.raises(RuntimeError) as raw:
        list(data.dataset().create_tuple_iterator(num_epochs=1))
    assert str(user_error_in(raw.value)) == str(caught.value)


def test_other_errors_are_left_alone() -> None:
    assert user_error_in(RuntimeError("something else")) is None
