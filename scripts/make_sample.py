#!/usr/bin/env python3
"""Rebuild the bundled Fashion-MNIST sample from Debian's package ``dataset-fashion-mnist``.

Use::

    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb deb
    python scripts/make_sample.py deb

The sample holds the first 500 training and the first 100 test images of every class, in the order
of the original files. The result depends only on the package, so the script can be used to check
the files in ``mindspore_thor/data/sample``.
"""

from __future__ import annotations

import gzip
import shutil
import struct
import sys
import zlib
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindspore_thor.command_line import Parser, one_line_errors
from mindspore_thor.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PER_CLASS = {"train": 500, "t10k": 100}
NUM_CLASSES = 10


def first_of_each_class(labels: np.ndarray, per_class: int) -> np.ndarray:
    """Return the sorted indices [NUM_CLASSES * per_class] of the first samples of each class."""
    chosen = [np.flatnonzero(labels == label)[:per_class] for label in range(NUM_CLASSES)]
    return np.sort(np.concatenate(chosen))


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write an unsigned-byte array as gzip IDX whose bytes do not depend on time or file name."""
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim)
    header += struct.pack(f">{array.ndim}I", *array.shape)
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        packed.write(header + array.tobytes())


def read_sample(source: Path) -> dict[str, np.ndarray]:
    """Return the sample's arrays by file name; ``source`` is the package's folder of IDX files."""
    arrays = {}
    for split, per_class in PER_CLASS.items():
        names = f"{split}-labels-idx1-ubyte.gz", f"{split}-images-idx3-ubyte.gz"
        with gzip.open(source / names[0]) as packed:
            labels = np.frombuffer(packed.read(), np.uint8, offset=8)
        with gzip.open(source / names[1]) as packed:
            images = np.frombuffer(packed.read(), np.uint8, offset=16).reshape(-1, 28, 28)
        chosen = first_of_each_class(labels, per_class)
        arrays[names[0]], arrays[names[1]] = labels[chosen], images[chosen]
    return arrays


@one_line_errors
def main() -> int:
    """Read the unpacked Debian package and write the five files of the sample."""
    parser = Parser(description="Rebuild the bundled Fashion-MNIST sample.")
    parser.add_argument("package", type=Path, help="folder made by dpkg -x dataset-fashion-mnist")
    parser.add_argument("--output", type=Path, default=ROOT / "mindspore_thor/data/sample")
    options = parser.parse_args()
    try:
        # All of it before anything is written over.
        arrays = read_sample(options.package / "usr/share/datasets/fashion-mnist")
        licence = options.package / "usr/share/doc/dataset-fashion-mnist/copyright"
        licence.open("rb").close()
    except (OSError, EOFError, zlib.error, ValueError, IndexError) as error:
        raise UserError(
            f"{options.package}: not the unpacked package ({error}); give the folder made by "
            "dpkg -x dataset-fashion-mnist_*.deb FOLDER"
        ) from None
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        for name, array in arrays.items():
            write_idx(options.output / name, array)
        shutil.copyfile(licence, options.output / "LICENSE")
    except OSError as error:
        raise UserError(
            f"{options.output}: cannot write there ({error.strerror}); give another --output"
        ) from None
    return 0


if __name__ == "__main__":
    sys.exit(main())
