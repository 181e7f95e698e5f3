"""Where a run's vocabulary lies meanwhile: a cache of the user's, or a temporary folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mindspore_thor.data.text.vocabulary import MODEL_FILE, WORDS_FILE, open_vocabulary
from mindspore_thor.errors import UserError
from mindspore_thor.files import shown
from mindspore_thor.run.task import TRAIN, Request

VOCABULARY_FILES = (MODEL_FILE, WORDS_FILE)

_FOLDERS: dict[str, tempfile.TemporaryDirectory] = {}
"""Vocabulary's fingerprint -> where it is and its text lies encoded; removed with the process."""

Opened = TypeVar("Opened")


def opened_text(
    data: Any, request: Request, open_split: Callable[[Path, str | None], Opened]
) -> Opened:
    """Open a split beside its vocabulary; the training split also makes one, where there is none.

    Args:
        data: The section ``data``, with ``cache`` and ``fingerprint``.
        request: Which part of it.
        open_split: (folder of the vocabulary, fingerprint that it must have, or None) -> the split,
            with its ``vocabulary``.

    Raises:
        UserError: The vocabulary is missing or another one, or the split cannot be opened.
    """
    train, fresh = request.split == TRAIN, request.beside is None
    known = _FOLDERS.get(data.fingerprint or "") if fresh and not train else None
    temporary = known or tempfile.TemporaryDirectory(prefix="mindspore_thor-text-")
    folder = Path(temporary.name if data.cache is None else data.cache)
    if request.beside is not None:
        _bring(request.beside, folder, data.fingerprint)
    # A fresh run may be given the configuration of another one: it makes its own first.
    text = open_split(folder, None if train and fresh else data.fingerprint)
    found = text.vocabulary.fingerprint  # type: ignore[attr-defined]
    if data.fingerprint not in (None, found):
        raise UserError(
            f"data.fingerprint is {shown(data.fingerprint, 20)}, but this text's vocabulary is "
            f"{found}: leave data.fingerprint out (null) for a new run"
        )
    if data.cache is None:
        _FOLDERS[found] = temporary
    return text


def _bring(beside: Path, folder: Path, fingerprint: str | None) -> None:
    """Copy a checkpoint's own vocabulary, which lies beside it."""
    found = [beside / name for name in VOCABULARY_FILES if (beside / name).is_file()]
    if not found:
        raise UserError(
            f"'{shown(beside, 110)}' has no vocabulary beside the checkpoint "
            f"({' or '.join(VOCABULARY_FILES)}): copy the run's file there"
        )
    open_vocabulary(beside, fingerprint)
    if not any((folder / name).is_file() for name in VOCABULARY_FILES):
        folder.mkdir(parents=True, exist_ok=True)
        for path in found:
            shutil.copyfile(path, folder / path.name)
