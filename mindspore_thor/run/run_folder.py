"""The folder of a run: which one it is, who works in it, and what may be written into it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from mindspore_thor.errors import UserError
from mindspore_thor.files import held, remove_leftovers, shown, write_file
from mindspore_thor.run.checkpoint import is_intact, list_checkpoints, set_aside
from mindspore_thor.run.ckpt_file import SUFFIX
from mindspore_thor.run.curves import is_own_picture
from mindspore_thor.run.tasks import TASKS

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

    @contextmanager
    def claimed(self, resumed: Path | None, position: tuple[int, int]) -> Iterator[list[str]]:
        """Keep other runs out of the folder, and make it ready for this one.

        What may have changed since :func:`choose_folder` is checked again. Temporary files of
        killed runs are removed; damaged checkpoints behind the resumed one are renamed.

        Args:
            resumed: The checkpoint that is resumed, or None.
            position: ``(epoch, step)`` of that checkpoint.

        Yields:
            One sentence per checkpoint that was renamed.

        Raises:
            UserError: If another run is using the folder, or holds it by now.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(held(self.path, wait=False))
            except BlockingIOError:
                raise UserError(
                    f"{shown(self.path)}: another run is using this folder; wait for it, or give "
                    "another --output_dir"
                ) from None
            damaged = check_folder(self.path, resumed, position)
            remove_leftovers(self.path)
            for path in damaged:
                set_aside(path)
            yield [f"{shown(path)} is damaged and was renamed to *.damaged" for path in damaged]

    def write_config(self, text: str) -> None:
        """Write the resolved configuration.

        Args:
            text: YAML.
        """
        self.write(CONFIG_NAME, text.encode("utf-8"))

    def write_metrics(self, metrics: Sequence[dict[str, Any]]) -> None:
        """Write all rows of the metrics, one JSON object per line.

        Args:
            metrics: One row per epoch.
        """
        text = "".join(json.dumps(row) + "\n" for row in metrics)
        self.write(METRICS_NAME, text.encode("utf-8"))

    def write(self, name: str, content: bytes) -> None:
        """Write a small file.

        Args:
            name: Its name in the folder.
            content: All of it.
        """
        write_file(self.path / name, [content], len(content))


def _obstacle(path: Path) -> str | None:
    """Return what a new run would write over, and the remedy; None for a free folder.

    A configuration beside empty metrics is a run that never reached its first checkpoint: there is
    nothing to lose and nothing to continue.
    """
    another = "give another --output_dir"
    if any(path.glob("*" + SUFFIX)):
        if list_checkpoints(path):
            another += f", or continue that run with --resume_ckpt {shown(path)}"
        return f"already holds a run; {another}"
    metrics = path / METRICS_NAME
    if os.path.lexists(metrics):
        if not metrics.is_file() or metrics.stat().st_size:
            return (
                f"already holds a run, one without checkpoints; {another}, or remove {METRICS_NAME}"
            )
    else:
        own = (name for task in TASKS.values() for name in task.own_files)
        for name in (CONFIG_NAME, *own):
            if os.path.lexists(path / name):
                return f"already holds a {name}; {another}"
    curves = path / CURVES_NAME
    if os.path.lexists(curves) and not is_own_picture(curves):
        return f"already holds a {CURVES_NAME}; {another}"
    return None


def check_folder(folder: Path, resumed: Path | None, position: tuple[int, int]) -> list[Path]:
    """Check that a run may write into a folder.

    Args:
        folder: The folder; it need not exist.
        resumed: The checkpoint that is resumed, or None.
        position: ``(epoch, step)`` of that checkpoint.

    Returns:
        Later checkpoints of the same run, all of them damaged.

    Raises:
        UserError: If results of another run, or later ones of the same run, would be overwritten.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{shown(folder)}: not a folder; give another --output_dir")
    if resumed is not None and folder.resolve() == resumed.resolve().parent:
        later = [path for epoch, step, path in list_checkpoints(folder) if (epoch, step) > position]
        for path in reversed(later):
            if is_intact(path):
                raise UserError(
                    f"{shown(folder)}: holds later checkpoints ({shown(path.name, 60)}); give a "
                    f"new --output_dir, or resume from {shown(path, 80)}"
                )
        return later
    problem = _obstacle(folder)
    if problem is not None:
        raise UserError(f"{shown(folder)}: {problem}")
    return []


def choose_folder(
    requested: Path | None, resumed: Path | None, position: tuple[int, int]
) -> Path | None:
    """Decide where a run goes, without creating anything.

    Args:
        requested: ``--output_dir``, or None.
        resumed: The checkpoint that is resumed, or None.
        position: ``(epoch, step)`` of that checkpoint.

    Returns:
        The requested folder or the resumed checkpoint's own; None for a fresh one.

    Raises:
        UserError: If results of another run, or later ones of the same run, would be overwritten.
    """
    folder = requested or (resumed.parent if resumed is not None else None)
    if folder is not None:
        check_folder(folder, resumed, position)
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
        raise _not_created(path, error) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"{shown(path)}: the folder is not writable; give another --output_dir")
    return RunFolder(path, model_name)


def create_fresh_folder(recipe: str, model_name: str) -> RunFolder:
    """Create a folder below ``runs/`` that no other run has, of those that start now neither.

    Args:
        recipe: Name of the recipe, the beginning of the folder's.
        model_name: Prefix of the checkpoints.

    Returns:
        The run folder.

    Raises:
        UserError: If the folder cannot be created or written.
    """
    create_folder(DEFAULT_PARENT, model_name)
    stem = f"{recipe}-{datetime.now():%Y%m%d-%H%M%S}"
    path, number = DEFAULT_PARENT / stem, 1
    while True:
        try:
            path.mkdir()
            return create_folder(path, model_name)
        except FileExistsError:
            number += 1
            path = DEFAULT_PARENT / f"{stem}-{number}"
        except OSError as error:
            raise _not_created(path, error) from None


def _not_created(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{shown(path)}: cannot create the folder ({error.strerror}); give another --output_dir"
    )
