"""The IDX files of MNIST and its relatives, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from mindspore_thor.data.files import RawSet, find_file
from mindspore_thor.errors import UserError

_UNSIGNED_BYTE = 8
_PREFIX = {True: "train", False: "t10k"}


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes.

    The format: two zero bytes, the type code (8 = unsigned byte), the number of dimensions, each
    dimension as a big-endian 32-bit number, then the data (Y. LeCun's MNIST page).

    Args:
        path: The file; a name ending in ``.gz`` is unpacked.
        ndim: Number of dimensions it must have.

    Returns:
        A uint8 array with ``ndim`` dimensions.

    Raises:
        UserError: Not an IDX file of that kind, truncated, too long, or a broken gzip file.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"'{path}' cannot be read ({error}): fetch the file again") from error
    header = 4 + 4 * ndim
    magic = bytes((0, 0, _UNSIGNED_BYTE, ndim))
    if content[:4] != magic:
        raise UserError(
            f"'{path}' is not an IDX file of unsigned bytes with {ndim} dimension(s): it starts "
            f"with {content[:4].hex() or 'nothing'}, not {magic.hex()}; fetch the file again"
        )
    # A file cut within its header has no shape to go by: then at least the header was expected.
    shape = np.frombuffer(content[4:header], ">u4").tolist() if len(content) >= header else [0]
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise UserError(
            f"'{path}' is damaged: {len(content)} bytes instead of {expected}; fetch the file again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


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
    images, labels = read_idx(paths[0], 3), read_idx(paths[1], 1)
    if images.shape[1:] != (28, 28):
        raise UserError(
            f"'{paths[0]}' holds images of {images.shape[1]}x{images.shape[2]} pixels, "
            "expected 28x28: give the files of MNIST or Fashion-MNIST"
        )
    if len(images) != len(labels) or not len(images):
        raise UserError(
            f"'{paths[0]}' has {len(images)} images, but '{paths[1]}' has {len(labels)} labels: "
            "take both files from one data set"
        )
    return images[:, None], labels, [(paths[1], len(labels))]
