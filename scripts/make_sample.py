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

import argparse
import gzip
import shutil
import struct
import sys
from pathlib import Path

import numpy as np

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


def main() -> int:
    """Read the unpacked Debian package and write the five files of the sample."""
    parser = argparse.ArgumentParser(description="Rebuild the bundled Fashion-MNIST sample.")
    parser.add_argument("package", type=Path, help="folder made by dpkg -x dataset-fashion-mnist")
    parser.add_argument("--output", type=Path, default=ROOT / "mindspore_thor/data/sample")
    options = parser.parse_args()
    source = options.package / "usr/share/datasets/fashion-mnist"
    options.output.mkdir(parents=True, exist_ok=True)
    for split, per_class in PER_CLASS.items():
        with gzip.open(source / f"{split}-labels-idx1-ubyte.gz") as packed:
            labels = np.frombuffer(packed.read(), np.uint8, offset=8)
        with gzip.open(source / f"{split}-images-idx3-ubyte.gz") as packed:
            images = np.frombuffer(packed.read(), np.uint8, offset=16).reshape(-1, 28, 28)
        chosen = first_of_each_class(labels, per_class)
        write_idx(options.output / f"{split}-images-idx3-ubyte.gz", images[chosen])
        write_idx(options.output / f"{split}-labels-idx1-ubyte.gz", labels[chosen])
    licence = options.package / "usr/share/doc/dataset-fashion-mnist/copyright"
    shutil.copyfile(licence, options.output / "LICENSE")
    return 0


if __name__ == "__main__":
    sys.exit(main())
