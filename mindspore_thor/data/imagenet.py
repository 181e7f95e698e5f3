"""ImageNet as a folder tree: ``train/<class>/*.JPEG`` and ``val/<class>/*.JPEG``."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np

from mindspore_thor.data.files import PathLike, unreadable
from mindspore_thor.data.image_file import SUFFIXES
from mindspore_thor.errors import UserError
from mindspore_thor.files import shown


def list_tree(folder: Path, train: bool) -> tuple[list[Path], np.ndarray, list[str]]:
    """List the images of one split; the class index is the place of the folder's name when sorted.

    Args:
        folder: Holds ``train`` and ``val``; the split that is not asked for may be missing.
        train: Whether to list ``train`` instead of ``val``.

    Returns:
        The N image files sorted by class and name, their labels int32 [N], and the class names.

    Raises:
        UserError: The split is missing or has no class folders, the two splits have different
            classes, a class has no images, an image file has no content, or something cannot be
            read.
    """
    names = {split: _class_names(folder / split) for split in ("train", "val")}
    wanted = "train" if train else "val"
    root = folder / wanted
    classes = names[wanted]
    if classes is None:
        raise UserError(
            f"'{shown(root)}' is missing: expected {wanted}/<class>/*.JPEG in '{shown(folder)}'"
        )
    if not classes:
        raise UserError(
            f"'{shown(root, 140)}' has no class folders: expected {wanted}/<class>/*.JPEG"
        )
    if names["train"] and names["val"] and names["train"] != names["val"]:
        odd = sorted(set(names["train"]) ^ set(names["val"]))
        where = "train" if odd[0] in names["train"] else "val"
        raise UserError(
            f"the classes of train and val in '{shown(folder)}' differ in {len(odd)} folder(s), "
            f"the first is '{shown(odd[0], 40)}', only in {where}: both need the same class folders"
        )
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _images(root / name)
        files += found
        labels += [label] * len(found)
    return files, np.asarray(labels, np.int32), classes


def _class_names(root: Path) -> list[str] | None:
    """Return the sorted names of the class folders, or None where there is no such split."""
    try:
        if not root.is_dir():
            return None
        with os.scandir(root) as entries:
            return sorted(
                entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()
            )
    except OSError as error:
        raise unreadable(error.filename or root, error) from None


def _images(folder: Path) -> list[Path]:
    found = []
    path: PathLike = folder
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.name.lower().endswith(SUFFIXES):
                    continue
                path = entry.path
                state = entry.stat()
                if stat.S_ISDIR(state.st_mode):
                    continue
                if not stat.S_ISREG(state.st_mode):
                    raise UserError(f"'{shown(path, 140)}' is not a regular file: remove it")
                if state.st_size == 0:
                    raise UserError(f"'{shown(path, 140)}' is an empty file: replace or remove it")
                found.append(folder / entry.name)
    except OSError as error:
        raise unreadable(path, error) from None
    if not found:
        raise UserError(
            f"class folder '{shown(folder, 140)}' has no images ({', '.join(SUFFIXES)}): fill or "
            "remove it"
        )
    return sorted(found)
