"""ImageNet as a folder tree: ``train/<class>/*.JPEG`` and ``val/<class>/*.JPEG``."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from mindspore_thor.errors import UserError

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp")


def list_tree(folder: Path, train: bool) -> tuple[list[Path], np.ndarray, list[str]]:
    """List the images of one split; the class index is the place of the folder's name when sorted.

    Args:
        folder: Holds ``train`` and ``val``; the split that is not asked for may be missing.
        train: Whether to list ``train`` instead of ``val``.

    Returns:
        The N image files sorted by class and name, their labels int32 [N], and the class names.

    Raises:
        UserError: The split is missing or has no class folders, the two splits have different
            classes, a class has no images, or an image file has no content.
    """
    names = {split: _class_names(folder / split) for split in ("train", "val")}
    wanted = "train" if train else "val"
    root = folder / wanted
    if not root.is_dir():
        raise UserError(f"'{root}' is missing: expected {wanted}/<class>/*.JPEG in '{folder}'")
    if not names[wanted]:
        raise UserError(f"'{root}' has no class folders: expected {wanted}/<class>/*.JPEG")
    if names["train"] and names["val"] and names["train"] != names["val"]:
        odd = sorted(set(names["train"]) ^ set(names["val"]))
        where = "train" if odd[0] in names["train"] else "val"
        raise UserError(
            f"the classes of '{folder}/train' and '{folder}/val' differ in {len(odd)} folder(s), "
            f"the first is '{odd[0]}', only in {where}: both need the same class folders"
        )
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names[wanted]):
        found = _images(root / name)
        files += found
        labels += [label] * len(found)
    return files, np.asarray(labels, np.int32), names[wanted]


def _class_names(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:
        return sorted(
            entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")
        )


def _images(folder: Path) -> list[Path]:
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not entry.name.lower().endswith(SUFFIXES):
                continue
            if entry.stat().st_size == 0:
                raise UserError(f"'{entry.path}' is an empty file: replace or remove it")
            found.append(folder / entry.name)
    if not found:
        raise UserError(
            f"class folder '{folder}' has no images ({', '.join(SUFFIXES)}): fill or remove it"
        )
    return sorted(found)
