"""The folder of a run: which one it is, and what may be written into it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mindspore_thor.errors import UserError
from mindspore_thor.train.checkpoint import list_checkpoints
from mindspore_thor.train.ckpt_file import SUFFIX

CONFIG_NAME = "config.yaml"
METRICS_NAME = "metrics.jsonl"
CURVES_NAME = "curves.png"
DEFAULT_PARENT = Path("runs")


class RunFolder:
    """Paths inside one run folder, and atomic writing of its small files.

    Args:
        path: The folder; it exists.
        model_name: Prefix of the checkpoints.
    """

    def __init__(self, path: Path, model_name: str) -> None:
        self.path = path
        self._model_name = model_name

    @property
    def curves(self) -> Path:
        """The picture of the run."""
        return self.path / CURVES_NAME

    @property
    def best_checkpoint(self) -> Path:
        """The weights with the best value of the task's first metric."""
        return self.path / f"{self._model_name}_best{SUFFIX}"

    def checkpoint(self, epoch: int, step: int) -> Path:
        """Return the weights file of a position, named as in the model zoo.

        Args:
            epoch: The epoch, from 1.
            step: Finished updates in it.
        """
        return self.path / f"{self._model_name}-{epoch}_{step}{SUFFIX}"

    def write_config(self, text: str) -> None:
        """Write the resolved configuration.

        Args:
            text: YAML.
        """
        self._write(CONFIG_NAME, text)

    def write_metrics(self, metrics: Sequence[dict[str, Any]]) -> None:
        """Write all rows of the metrics, one JSON object per line.

        Args:
            metrics: One row per epoch.
        """
        self._write(METRICS_NAME, "".join(json.dumps(row) + "\n" for row in metrics))

    def _write(self, name: str, text: str) -> None:
        target = self.path / name
        temporary = self.path / f".{name}.{os.getpid()}"
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def holds_run(path: Path) -> bool:
    """Return whether a folder holds anything that a run would write over.

    Args:
        path: The folder; it need not exist.
    """
    if (path / CONFIG_NAME).exists() or (path / METRICS_NAME).exists():
        return True
    return any(path.glob("*" + SUFFIX))


def choose_folder(
    requested: Path | None, recipe: str, resumed: Path | None, position: tuple[int, int]
) -> Path:
    """Decide where a run goes, without creating anything.

    Args:
        requested: ``--output_dir``, or None.
        recipe: Name of the recipe, for a fresh folder's name.
        resumed: The checkpoint that is resumed, or None.
        position: ``(epoch, step)`` of that checkpoint.

    Returns:
        The folder: the requested one, the resumed checkpoint's own, or a fresh one.

    Raises:
        UserError: If results of another run, or later ones of the same run, would be overwritten.
    """
    own = resumed.resolve().parent if resumed is not None else None
    folder = requested or (resumed.parent if resumed is not None else _fresh(recipe))
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: not a folder; give another --output_dir")
    if folder.resolve() == own:
        later = [path for epoch, step, path in list_checkpoints(folder) if (epoch, step) > position]
        if later:
            raise UserError(
                f"{folder}: holds later checkpoints ({later[-1].name}); give a new --output_dir, "
                f"or resume from {folder}"
            )
    elif holds_run(folder):
        raise UserError(
            f"{folder}: already holds a run; give another --output_dir, or continue that run with "
            f"--resume_ckpt {folder}"
        )
    return folder


def create_folder(path: Path, model_name: str) -> RunFolder:
    """Create the folder where it does not exist.

    Args:
        path: The folder.
        model_name: Prefix of the checkpoints.

    Returns:
        The run folder.

    Raises:
        UserError: If the folder cannot be created or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: cannot create the folder ({error.strerror}); give another --output_dir"
        ) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"{path}: the folder is not writable; give another --output_dir")
    return RunFolder(path, model_name)


def _fresh(recipe: str) -> Path:
    stem = f"{recipe}-{datetime.now():%Y%m%d-%H%M%S}"
    path, number = DEFAULT_PARENT / stem, 1
    while path.exists():
        number += 1
        path = DEFAULT_PARENT / f"{stem}-{number}"
    return path
