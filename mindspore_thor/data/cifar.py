"""The official binary files of CIFAR-10 and CIFAR-100 (https://www.cs.toronto.edu/~kriz/cifar.html)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mindspore_thor.data.files import RawSet, find_file, unreadable
from mindspore_thor.errors import UserError
from mindspore_thor.files import shown

PIXELS = 3 * 32 * 32


def read_cifar_file(path: Path, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Read one file: records of ``label_bytes`` labels and 3072 pixels (channel, row, column).

    Args:
        path: The file.
        label_bytes: 1 for CIFAR-10, 2 for CIFAR-100 (coarse label, fine label).

    Returns:
        Images uint8 [N, 3, 32, 32] and labels uint8 [N]; of two labels the last (fine) one.

    Raises:
        UserError: The file cannot be read, is empty or does not hold whole records.
    """
    record = label_bytes + PIXELS
    try:
        size = path.stat().st_size
        # Nothing is read of a file that cannot be right.
        content = np.fromfile(path, np.uint8) if size % record == 0 else np.empty(0, np.uint8)
    except (OSError, MemoryError) as error:
        raise unreadable(path, error) from None
    if content.size == 0 or content.size % record:
        raise UserError(
            f"'{shown(path, 140)}' is damaged: {size} bytes is not a whole number of records of "
            f"{record} bytes; fetch the file again"
        )
    records = content.reshape(-1, record)
    images = np.ascontiguousarray(records[:, label_bytes:]).reshape(-1, 3, 32, 32)
    return images, records[:, label_bytes - 1].copy()


def read_cifar10(folder: Path, train: bool) -> RawSet:
    """Read one split of CIFAR-10 from ``folder`` or its ``cifar-10-batches-bin``.

    Args:
        folder: The data folder.
        train: Whether to read the five training files instead of the test file.

    Returns:
        Images uint8 [N, 3, 32, 32], labels uint8 [N], and the files with their sample counts.

    Raises:
        UserError: A file is missing or damaged.
    """
    numbers = range(1, 6)
    names = [f"data_batch_{number}.bin" for number in numbers] if train else ["test_batch.bin"]
    return _read([folder, folder / "cifar-10-batches-bin"], names, 1)


def read_cifar100(folder: Path, train: bool) -> RawSet:
    """Read one split of CIFAR-100 (fine labels) from ``folder`` or its ``cifar-100-binary``.

    Args:
        folder: The data folder.
        train: Whether to read the training file instead of the test file.

    Returns:
        Images uint8 [N, 3, 32, 32], labels uint8 [N], and the files with their sample counts.

    Raises:
        UserError: A file is missing or damaged.
    """
    return _read([folder, folder / "cifar-100-binary"], ["train.bin" if train else "test.bin"], 2)


def _read(folders: list[Path], names: list[str], label_bytes: int) -> RawSet:
    # The subfolder goes first in the message only when it is there.
    folders = [folder for folder in reversed(folders) if folder.is_dir()]
    images, labels, files = [], [], []
    for name in names:
        path = find_file(folders, [name])
        some_images, some_labels = read_cifar_file(path, label_bytes)
        images.append(some_images)
        labels.append(some_labels)
        files.append((path, len(some_labels)))
    return np.concatenate(images), np.concatenate(labels), files
