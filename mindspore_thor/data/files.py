"""Checks on folders and labels that every data set shares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Union

import numpy as np

from mindspore_thor.errors import UserError

PathLike = Union[str, Path]

# uint8 images [N, C, H, W], uint8 labels [N], and the files of the labels with their sample counts.
RawSet = tuple[np.ndarray, np.ndarray, list[tuple[Path, int]]]


def data_folder(name: str, path: PathLike | None) -> Path:
    """Return the data folder as a Path.

    Args:
        name: The data set's name, for the message.
        path: What the user gave.

    Raises:
        UserError: No path, nothing there, not a folder, or nothing in it.
    """
    if path is None or not str(path):
        raise UserError(f"data set '{name}' needs a data path: give the folder of its files")
    folder = Path(path)
    if not folder.exists():
        raise UserError(f"data path '{folder}' does not exist: give the folder of '{name}'")
    if not folder.is_dir():
        raise UserError(f"data path '{folder}' is not a folder: give the folder of '{name}'")
    if next(folder.iterdir(), None) is None:
        raise UserError(f"data path '{folder}' is empty: put the files of '{name}' there")
    return folder


def find_file(folders: Sequence[Path], names: Sequence[str]) -> Path:
    """Return the first of the given names that is a file in one of the folders.

    Args:
        folders: Where to look; the first one is the folder that the message names.
        names: Accepted spellings; the first one is the official name.

    Raises:
        UserError: None of them is there.
    """
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    others = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
    raise UserError(f"'{folders[0] / names[0]}' is missing: expected {names[0]}{others} there")


def check_labels(path: Path, labels: np.ndarray, num_classes: int) -> None:
    """Refuse a label outside 0 .. num_classes - 1.

    Args:
        path: The file that the labels come from.
        labels: [N], unsigned.
        num_classes: Number of classes.

    Raises:
        UserError: Names the file, the first bad index, its label and the number of classes.
    """
    bad = np.flatnonzero(labels >= num_classes)
    if bad.size:
        index = int(bad[0])
        raise UserError(
            f"'{path}': sample {index} has label {int(labels[index])}, but there are {num_classes} "
            f"classes (0 to {num_classes - 1}): correct num_classes or the file"
        )
