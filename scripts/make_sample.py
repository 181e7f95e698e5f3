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
import io
import struct
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindspore_thor.command_line import Parser, one_line_errors
from mindspore_thor.data.idx import read_idx_set
from mindspore_thor.errors import UserError
from mindspore_thor.files import shown, write_file
from mindspore_thor.program import run_program

ROOT = Path(__file__).resolve().parents[1]
PER_CLASS = {"train": 500, "t10k": 100}
NUM_CLASSES = 10


def first_of_each_class(labels: np.ndarray, per_class: int) -> np.ndarray:
    """Return the sorted indices [NUM_CLASSES * per_class] of the first samples of each class."""
    chosen = [np.flatnonzero(labels == label)[:per_class] for label in range(NUM_CLASSES)]
    return np.sort(np.concatenate(chosen))


def idx_gz(array: np.ndarray) -> bytes:
    """Return an unsigned-byte array as gzip IDX whose bytes do not depend on time or file name."""
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim)
    header += struct.pack(f">{array.ndim}I", *array.shape)
    packed = io.BytesIO()
    with gzip.GzipFile("", "wb", 9, packed, mtime=0) as file:
        file.write(header + array.tobytes())
    return packed.getvalue()


def read_sample(source: Path) -> dict[str, np.ndarray]:
    """Return the sample's arrays by file name; ``source`` is the package's folder of IDX files."""
    arrays = {}
    for train, (split, per_class) in zip((True, False), PER_CLASS.items()):
        images, labels, _ = read_idx_set(source, train)
        chosen = first_of_each_class(labels, per_class)
        arrays[f"{split}-labels-idx1-ubyte.gz"] = labels[chosen]
        arrays[f"{split}-images-idx3-ubyte.gz"] = images[chosen, 0]
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
        source = options.package / "usr/share/datasets/fashion-mnist"
        source.stat()
        files = {name: idx_gz(array) for name, array in read_sample(source).items()}
        licence = options.package / "usr/share/doc/dataset-fashion-mnist/copyright"
        files["LICENSE"] = licence.read_bytes()
    except (OSError, UserError) as error:
        reason = str(error).replace(f"{options.package}/", "")
        raise UserError(
            f"{shown(options.package, 80)}: not the unpacked package ({shown(reason, 120)}); "
            "give the folder made by dpkg -x dataset-fashion-mnist_*.deb FOLDER"
        ) from None
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_file(options.output / name, [content], len(content))
    except OSError as error:
        raise UserError(
            f"{shown(options.output, 140)}: cannot write there ({error.strerror}); give "
            "another --output"
        ) from None
    return 0


if __name__ == "__main__":
    run_program(main)
