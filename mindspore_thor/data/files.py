"""Checks on arguments, folders and labels that every data set shares."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Union

import numpy as np

from mindspore_thor.errors import UserError, quoted
from mindspore_thor.files import shown

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
    named = f"data path '{shown(folder, 140)}'"
    try:
        if not folder.exists():
            raise UserError(f"{named} does not exist: give the folder of '{name}'")
        if not folder.is_dir():
            raise UserError(f"{named} is not a folder: give the folder of '{name}'")
        if next(folder.iterdir(), None) is None:
            raise UserError(f"{named} is empty: put the files of '{name}' there")
    except OSError as error:
        raise UserError(
            f"{named} cannot be read ({error.strerror}): check the path and its permissions"
        ) from None
    return folder


def check_name(name: str, known: Sequence[str], what: str) -> None:
    """Refuse a data set that does not exist.

    Args:
        name: Its name.
        known: All names, sorted.
        what: What it should be one of, for the message.

    Raises:
        UserError: The name is none of them.
    """
    if name not in known:
        close = difflib.get_close_matches(str(name)[:40], known, 1, 0.0)
        raise UserError(
            f"unknown {what} {quoted(name, 40)}, did you mean '{close[0]}'? "
            f"Known are {', '.join(known)}"
        )


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
            try:
                if (folder / name).is_file():
                    return folder / name
            except OSError as error:
                raise unreadable(folder / name, error) from None
    others = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
    raise UserError(
        f"'{shown(folders[0] / names[0])}' is missing: expected {names[0]}{others} there"
    )


def unreadable(path: PathLike, error: BaseException) -> UserError:
    """Return the error that says why a file or folder cannot be read.

    Args:
        path: What was to be read.
        error: What the system, or the reader of the file's format, said.
    """
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return UserError(
        f"'{shown(path, 140)}' cannot be read ({shown(reason, 60)}): check its permissions, or "
        "fetch it again"
    )


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
            f"'{shown(path, 120)}': sample {index} has label {int(labels[index])}, but there "
            f"are {num_classes} classes (0 to {num_classes - 1}): correct num_classes or the file"
        )


def check_integers(**values: tuple[object, int, int]) -> None:
    """Refuse whatever is not a whole number in its range.

    Args:
        **values: Name -> what was given, the least and the most.

    Raises:
        UserError: Names the first one that is wrong, and its range.
    """
    for name, (value, least, most) in values.items():
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not whole or not least <= int(value) <= most:  # type: ignore[call-overload]
            raise UserError(
                f"{name} is {shown(value, 40)}: give a whole number from {least} to {most}"
            )
