"""The bundled Fashion-MNIST sample."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from places import ROOT

from mindspore_thor.data import available_data, create_data

SAMPLE = ROOT / "mindspore_thor/data/sample"


@pytest.mark.parametrize(("train", "per_class"), [(True, 500), (False, 100)])
def test_every_class_is_there_equally_often(train: bool, per_class: int) -> None:
    data = create_data("fashion_mnist_sample", train=train, batch_size=500)
    labels = np.concatenate([y.asnumpy() for _, y in data.epoch(0)])
    assert np.bincount(labels).tolist() == [per_class] * 10
    assert (data.size, data.image_shape) == (10 * per_class, (1, 28, 28))


def test_no_test_image_is_a_training_image() -> None:
    splits = []
    for train in (True, False):
        data = create_data("fashion_mnist_sample", train=train, batch_size=1000, augment=False)
        splits.append({x.tobytes() for batch, _ in data.epoch(0) for x in batch.asnumpy()})
    assert not splits[0] & splits[1]


def test_given_path_takes_the_place_of_the_bundled_files(tmp_path: Path) -> None:
    for prefix in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            source = "t10k" if prefix == "train" else "train"
            name = f"-{kind}-ubyte.gz"
            shutil.copy(SAMPLE / f"{source}{name}", tmp_path / f"{prefix}{name}")
    swapped = create_data("fashion_mnist_sample", tmp_path, train=True, batch_size=10)
    assert swapped.size == 1000


def test_licence_lies_beside() -> None:
    text = (SAMPLE / "LICENSE").read_text()
    assert "Zalando SE" in text and "Permission is hereby granted, free of charge" in text


def test_script_rebuilds_the_same_files(tmp_path: Path) -> None:
    """The sample of the sample is the sample: its images are the first ones of each class."""
    package = tmp_path / "usr/share/datasets/fashion-mnist"
    package.mkdir(parents=True)
    for path in SAMPLE.glob("*.gz"):
        shutil.copy(path, package)
    licence = tmp_path / "usr/share/doc/dataset-fashion-mnist"
    licence.mkdir(parents=True)
    shutil.copy(SAMPLE / "LICENSE", licence / "copyright")
    script = ROOT / "scripts/make_sample.py"
    output = tmp_path / "out"
    subprocess.run([sys.executable, script, tmp_path, "--output", output], check=True)
    assert {path.name for path in output.iterdir()} == {path.name for path in SAMPLE.iterdir()}
    for path in SAMPLE.glob("*.gz"):
        rebuilt = (output / path.name).read_bytes()
        assert gzip.decompress(rebuilt) == gzip.decompress(path.read_bytes())
        # No file name and no time in the gzip header (RFC 1952).
        assert rebuilt[3] == path.read_bytes()[3] == 0
        assert rebuilt[4:8] == path.read_bytes()[4:8] == bytes(4)


def test_a_wrong_folder_gives_one_line_and_changes_nothing(tmp_path: Path) -> None:
    package = tmp_path / "usr/share/datasets/fashion-mnist"
    package.mkdir(parents=True)
    for path in SAMPLE.glob("*.gz"):
        shutil.copy(path, package)
    (package / "t10k-images-idx3-ubyte.gz").write_bytes(b"no gzip")
    script = ROOT / "scripts/make_sample.py"
    for folder, what in ((tmp_path / "none", "No such file"), (tmp_path, "Not a gzipped file")):
        output = tmp_path / "out"
        done = subprocess.run(
            [sys.executable, script, folder, "--output", output], capture_output=True, text=True
        )
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"error: {folder}: not the unpacked package")
        assert what in line and "dpkg -x" in line
        assert not output.exists()


def test_all_names_are_known() -> None:
    assert available_data() == [
        "cifar10",
        "cifar100",
        "fashion_mnist",
        "fashion_mnist_sample",
        "imagenet",
        "mnist",
    ]
