"""The IDX files of MNIST and its relatives, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from mindspore_thor.data.files import RawSet, find_file, unreadable
from mindspore_thor.errors import UserError
from mindspore_thor.files import shown

_UNSIGNED_BYTE = 8
# What a gzip file may unpack to: anything up to the first number of bytes, beyond it the second
# number times its own size. Images of digits shrink to a fifth, zeros to a thousandth.
_ANY_SIZE = 1 << 28
_MOST_PACKED = 100

_PREFIX = {True: "train", False: "t10k"}


def read_idx(path: Path, ndim: int, item: tuple[int, ...] | None = None) -> np.ndarray:
    """Read an IDX file of unsigned bytes.

    The format: two zero bytes, the type code (8 = unsigned byte), the number of dimensions, each
    dimension as a big-endian 32-bit number, then the data (Y. LeCun's MNIST page).

    The header is read first, and the data only where the file can hold as much as it announces.

    Args:
        path: The file; a name ending in ``.gz`` is unpacked.
        ndim: Number of dimensions it must have.
        item: The dimensions that must follow the first one, where they are known.

    Returns:
        A uint8 array with ``ndim`` dimensions.

    Raises:
        UserError: Not an IDX file of that kind, truncated, too long, or a broken gzip file.
    """
    try:
        size = path.stat().st_size
        zipped = path.suffix == ".gz"
        with gzip.open(path) if zipped else path.open("rb") as file:
            header = file.read(4 + 4 * ndim)
            shape = _shape(path, header, ndim, item)
            expected = 4 + 4 * ndim + math.prod(shape)
            if zipped and expected > max(_ANY_SIZE, _MOST_PACKED * size):
                raise UserError(
                    f"'{shown(path, 140)}' would unpack from {size} to {expected} bytes, more than "
                    "any images do: fetch the file again"
                )
            found = size
            if zipped or size == expected:
                content = file.read(math.prod(shape))
                # One more byte shows that a packed file goes on; the rest of it is not unpacked.
                found = len(header) + len(content) + len(file.read(1))
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        raise unreadable(path, error) from error
    if found != expected:
        more = "at least " if zipped and found > expected else ""
        raise UserError(
            f"'{shown(path, 140)}' is damaged: {more}{found} bytes instead of {expected}; fetch "
            "the file again"
        )
    try:
        return np.frombuffer(content, np.uint8).reshape(shape)
    except ValueError:  # one dimension is 0, others are too large for any array
        raise UserError(
            f"'{shown(path, 140)}' is damaged: its header announces {'x'.join(map(str, shape))} "
            "values; fetch the file again"
        ) from None


def _shape(path: Path, header: bytes, ndim: int, item: tuple[int, ...] | None) -> list[int]:
    """Return the dimensions in a file's first bytes, or refuse them."""
    magic = bytes((0, 0, _UNSIGNED_BYTE, ndim))
    if header[:4] != magic:
        raise UserError(
            f"'{shown(path, 120)}' is not an IDX file of unsigned bytes with {ndim} dimension(s): "
            f"it starts with {header[:4].hex() or 'nothing'}, not {magic.hex()}; fetch the file "
            "again"
        )
    # A file cut within its header has no shape to go by: then at least the header was expected.
    whole = len(header) == 4 + 4 * ndim
    shape = np.frombuffer(header[4:], ">u4").tolist() if whole else [0]
    if whole and item is not None and tuple(shape[1:]) != item:
        raise UserError(
            f"'{shown(path, 120)}' holds images of {'x'.join(map(str, shape[1:]))} pixels, "
            f"expected {'x'.join(map(str, item))}: give the files of MNIST or Fashion-MNIST"
        )
    return shape


def read_idx_set(folder: Path, train: bool) -> RawSet:
    """Read the images and labels of one split.

    Args:
        folder: Holds ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the ``t10k``
            pair, each plain or with ``.gz``.
        train: Whether to read the training split.

    Returns:
        Images uint8 [N, 1, 28, 28], labels uint8 [N], and the label files with their sizes.

    Raises:
        UserError: A file is missing or damaged, or the two do not belong together.
    """
    paths = []
    for kind in ("images-idx3", "labels-idx1"):
        # Some sites write train-images.idx3-ubyte instead.
        stems = [f"{_PREFIX[train]}-{name}-ubyte" for name in (kind, kind.replace("-", "."))]
        paths.append(find_file([folder], [stem + end for stem in stems for end in ("", ".gz")]))
    # The labels first: they are small, and tell how many images there can be.
    labels, images = read_idx(paths[1], 1), read_idx(paths[0], 3, (28, 28))
    if len(images) != len(labels):
        raise UserError(
            f"'{shown(paths[0])}' has {len(images)} images, but '{shown(paths[1])}' has "
            f"{len(labels)} labels: take both files from one data set"
        )
    if not len(images):
        raise UserError(f"'{shown(paths[0], 140)}' holds no images: fetch the file again")
    return images[:, None], labels, [(paths[1], len(labels))]
