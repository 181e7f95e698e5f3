"""Checkpoints: the weights for everybody, and beside them the state for an exact resume.

One checkpoint is a pair of files in the run folder::

    resnet20-3_39.ckpt          weights and buffers under the plain net's names
    resnet20-3_39.state.ckpt    every parameter of the train step, and the position of the loop

The first loads into the plain, unconverted net with ``ms.load_checkpoint``. The second is enough by
itself to continue bit for bit. Its digest covers its parameters, the position and the digest of the
weights: files of two different moments are refused as a pair.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mindspore import Parameter, nn

from mindspore_thor.errors import UserError
from mindspore_thor.files import shown
from mindspore_thor.run.ckpt_file import (
    SUFFIX,
    assign,
    damaged,
    load_file,
    read_file,
    save_file,
)
from mindspore_thor.run.ckpt_format import digest_of
from mindspore_thor.run.position import Position, parse_position

STATE_SUFFIX = ".state.ckpt"
_POSITION_KEY = "mindspore_thor.position"
_WEIGHTS_KEY = "mindspore_thor.weights"


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
        if match and path.is_file() and state_file_of(path).is_file():
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
            raise UserError(f"{shown(path)}: no checkpoint in this folder; give another one")
        return pairs[-1][2]
    if not path.is_file():
        raise UserError(f"{shown(path)}: no such checkpoint; give a .ckpt file or a run folder")
    if not path.name.endswith(SUFFIX):
        raise UserError(f"{shown(path)}: not a checkpoint; its name must end in .ckpt")
    return weights_file_of(path)


def earlier_checkpoint(state_file: Path) -> Path | None:
    """Return the newest sound checkpoint of a folder before one that is not.

    Args:
        state_file: The state file of the latter.
    """
    pairs = [path for _, _, path in list_checkpoints(state_file.parent)]
    damaged_one = weights_file_of(state_file)
    before = pairs[: pairs.index(damaged_one)] if damaged_one in pairs else []
    return next((path for path in reversed(before) if is_intact(path)), None)


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
    names = tuple(weight_names)
    texts = {
        _POSITION_KEY: json.dumps(asdict(position)),
        _WEIGHTS_KEY: digest_of({name: state[name] for name in names}, {}),
    }
    save_file(state_file_of(weights_file), state, texts)
    save_weights(weights_file, names, state)


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
    """Read a state file, and make sure that the weights beside it are of the same moment.

    Args:
        path: The state file. The weights may be missing.

    Returns:
        The position of the loop, and the values of the train step's parameters by name.

    Raises:
        UserError: If one of the files is damaged, if they do not belong together, or if the first
            is no state file.
    """
    contents = read_file(path)
    values = contents.values
    text, weights = values.pop(_POSITION_KEY, None), values.pop(_WEIGHTS_KEY, None)
    if not isinstance(text, str):
        raise UserError(
            f"{shown(path)}: holds no training state, only weights; resume from a {STATE_SUFFIX} "
            "file"
        )
    if not contents.sealed or not isinstance(weights, str):
        raise UserError(
            f"{shown(path)}: the training state was changed, or written by an earlier release; "
            "resume with the release that wrote it, or from another checkpoint"
        )
    try:
        position = parse_position(text)
    except ValueError as error:
        raise damaged(path, error) from None
    beside = weights_file_of(path)
    if beside != path and beside.is_file() and read_file(beside).digest != weights:
        raise UserError(
            f"{shown(path)}: the weights beside it ({shown(beside.name, 60)}) are of another "
            "moment; use an earlier checkpoint or copy both files again"
        )
    return position, values


def is_intact(weights_file: Path) -> bool:
    """Return whether a checkpoint pair can be resumed from.

    Args:
        weights_file: The weights file of the pair.
    """
    try:
        read_state(state_file_of(weights_file))
    except UserError:
        return False
    return True


def set_aside(weights_file: Path) -> None:
    """Rename a damaged pair, so that it no longer counts as a checkpoint; nothing is deleted.

    Args:
        weights_file: The weights file of the pair.
    """
    for path in (weights_file, state_file_of(weights_file)):
        place, number = path.with_name(f"{path.name}.damaged"), 1
        while place.exists():
            number += 1
            place = path.with_name(f"{path.name}.damaged-{number}")
        path.rename(place)


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Remove all but the newest pairs of a run folder.

    Args:
        folder: The run folder.
        keep: How many pairs stay, at least 1.
    """
    for _, _, path in list_checkpoints(folder)[:-keep]:
        # What cannot be removed is no reason to end a run.
        with contextlib.suppress(OSError):
            # Weights first: without them the pair no longer counts.
            path.unlink()
            state_file_of(path).unlink()
