"""Checkpoints: the weights for everybody, and beside them the state for an exact resume.

One checkpoint is a pair of files in the run folder::

    resnet20-3_39.ckpt          weights and buffers under the plain net's names
    resnet20-3_39.state.ckpt    every parameter of the train step, and the position of the loop

The first loads into the plain, unconverted net with ``ms.load_checkpoint``. The second is enough by
itself to continue bit for bit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mindspore import Parameter, nn

from mindspore_thor.errors import UserError
from mindspore_thor.train.ckpt_file import SUFFIX, assign, load_file, save_file

STATE_SUFFIX = ".state.ckpt"
_POSITION_KEY = "mindspore_thor.position"


@dataclass
class Position:
    """Where the loop stands, and what it has reported so far.

    Attributes:
        epoch: Current epoch, from 1; 0 before the first.
        step: Finished updates of that epoch.
        steps_per_epoch: Batches per epoch of the data that is trained on.
        config: The resolved configuration, to compare on resume.
        metrics: One row per finished epoch, as in ``metrics.jsonl``.
        best_accuracy: Best value so far of the task's first metric, or None. That is an accuracy
            or an error; the name is the one that stands in the checkpoints.
        loss_sum: Sum of the finite losses of the current epoch.
        loss_count: Number of them.
        epoch_seconds: Time spent in the current epoch so far.
        wall_clock: Seconds since the training began, pauses excluded.
    """

    epoch: int = 0
    step: int = 0
    steps_per_epoch: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    best_accuracy: float | None = None
    loss_sum: float = 0.0
    loss_count: int = 0
    epoch_seconds: float = 0.0
    wall_clock: float = 0.0


def state_file_of(path: Path) -> Path:
    """Return the state file of a checkpoint pair.

    Args:
        path: Either file of the pair.

    Returns:
        The path that ends in ``.state.ckpt``.
    """
    if path.name.endswith(STATE_SUFFIX):
        return path
    return path.with_name(path.name[: -len(SUFFIX)] + STATE_SUFFIX)


def weights_file_of(path: Path) -> Path:
    """Return the weights file of a checkpoint pair.

    Args:
        path: Either file of the pair.

    Returns:
        The path of the plain checkpoint.
    """
    if not path.name.endswith(STATE_SUFFIX):
        return path
    return path.with_name(path.name[: -len(STATE_SUFFIX)] + SUFFIX)


def list_checkpoints(folder: Path) -> list[tuple[int, int, Path]]:
    """List the complete pairs of a run folder, oldest position first.

    Args:
        folder: A run folder.

    Returns:
        ``(epoch, step, weights file)`` of every pair whose two files exist.
    """
    pattern = re.compile(r".+-(\d+)_(\d+)\.ckpt")
    found = []
    for path in folder.glob("*" + SUFFIX):
        match = pattern.fullmatch(path.name)
        if match and state_file_of(path).is_file():
            found.append((int(match[1]), int(match[2]), path))
    return sorted(found)


def find_checkpoint(path: Path) -> Path:
    """Return the weights file that the user means.

    Args:
        path: A run folder (its latest checkpoint is meant), or either file of a pair.

    Returns:
        The weights file, which need not exist for a state file.

    Raises:
        UserError: If there is no such checkpoint.
    """
    if path.is_dir():
        pairs = list_checkpoints(path)
        if not pairs:
            raise UserError(f"{path}: no checkpoint in this folder; give another one")
        return pairs[-1][2]
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; give a .ckpt file or a run folder")
    if not path.name.endswith(SUFFIX):
        raise UserError(f"{path}: not a checkpoint; its name must end in .ckpt")
    return weights_file_of(path)


def save_checkpoint(
    weights_file: Path,
    weight_names: Iterable[str],
    state: Mapping[str, Parameter],
    position: Position,
) -> None:
    """Write both files of a checkpoint, each one atomically; the weights come last.

    The pair counts as a checkpoint once both exist, so a crash in between leaves no half of one.

    Args:
        weights_file: Path of the weights file.
        weight_names: The plain net's parameter names.
        state: Every parameter of the train step, by name.
        position: Where the loop stands.
    """
    save_file(state_file_of(weights_file), state, {_POSITION_KEY: json.dumps(asdict(position))})
    save_weights(weights_file, weight_names, state)


def save_weights(path: Path, weight_names: Iterable[str], state: Mapping[str, Parameter]) -> None:
    """Write only the weights file, atomically.

    Args:
        path: The file.
        weight_names: The plain net's parameter names.
        state: Every parameter of the train step, by name.
    """
    save_file(path, {name: state[name] for name in weight_names})


def load_weights(net: nn.Cell, path: Path) -> None:
    """Load a weights file into a net that has exactly these parameters.

    Args:
        net: The plain net.
        path: The weights file.

    Raises:
        UserError: If the file is damaged or belongs to another architecture.
    """
    loaded = load_file(path)
    loaded.pop(_POSITION_KEY, None)
    assign(net.parameters_dict(), loaded, path)


def read_state(path: Path) -> tuple[Position, dict[str, Any]]:
    """Read a state file.

    Args:
        path: The state file.

    Returns:
        The position of the loop, and the values of the train step's parameters by name.

    Raises:
        UserError: If the file is damaged or is no state file.
    """
    values = load_file(path)
    return _position(values.pop(_POSITION_KEY, None), path), values


def _position(text: Any, path: Path) -> Position:
    if not isinstance(text, str):
        raise UserError(
            f"{path}: holds no training state, only weights; resume from a {STATE_SUFFIX} file"
        )
    try:
        return Position(**json.loads(text))
    except (ValueError, TypeError):
        raise UserError(
            f"{path}: the training state has another layout; resume with the release that wrote it"
        ) from None


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Remove all but the newest pairs of a run folder.

    Args:
        folder: The run folder.
        keep: How many pairs stay, at least 1.
    """
    for _, _, path in list_checkpoints(folder)[:-keep]:
        # Weights first: without them the pair no longer counts.
        path.unlink()
        state_file_of(path).unlink()
