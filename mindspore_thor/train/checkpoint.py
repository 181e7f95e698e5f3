"""Checkpoints: the weights for everybody, and beside them the state for an exact resume.

One checkpoint is a pair of files in the run folder::

    resnet20-3_39.ckpt          weights and buffers under the plain net's names
    resnet20-3_39.state.ckpt    every parameter of the train step, and the position of the loop

The first loads into the plain, unconverted net with ``ms.load_checkpoint``. The second is enough by
itself to continue bit for bit. Both are MindSpore checkpoint files that end with MindSpore's own
CRC, so that a truncated or altered file is found before it is parsed.
"""

from __future__ import annotations

import binascii
import contextlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from mindspore_thor.errors import UserError

WEIGHTS_SUFFIX = ".ckpt"
STATE_SUFFIX = ".state.ckpt"
_POSITION_KEY = "mindspore_thor.position"
_CRC_MARK = b"crc_num"
_CRC_BYTES = len(_CRC_MARK) + 10
_SHOWN_NAMES = 3


@dataclass
class Position:
    """Where the loop stands, and what it has reported so far.

    Attributes:
        epoch: Current epoch, from 1; 0 before the first.
        step: Finished updates of that epoch.
        steps_per_epoch: Batches per epoch of the data that is trained on.
        config: The resolved configuration, to compare on resume.
        metrics: One row per finished epoch, as in ``metrics.jsonl``.
        best_accuracy: Best top-1 accuracy so far, in [0, 1], or None.
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
    return path.with_name(path.name[: -len(WEIGHTS_SUFFIX)] + STATE_SUFFIX)


def weights_file_of(path: Path) -> Path:
    """Return the weights file of a checkpoint pair.

    Args:
        path: Either file of the pair.

    Returns:
        The path of the plain checkpoint.
    """
    if not path.name.endswith(STATE_SUFFIX):
        return path
    return path.with_name(path.name[: -len(STATE_SUFFIX)] + WEIGHTS_SUFFIX)


def list_checkpoints(folder: Path) -> list[tuple[int, int, Path]]:
    """List the complete pairs of a run folder, oldest position first.

    Args:
        folder: A run folder.

    Returns:
        ``(epoch, step, weights file)`` of every pair whose two files exist.
    """
    pattern = re.compile(r".+-(\d+)_(\d+)\.ckpt")
    found = []
    for path in folder.glob("*" + WEIGHTS_SUFFIX):
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
    if not path.name.endswith(WEIGHTS_SUFFIX):
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


def save_file(
    path: Path, parameters: Mapping[str, Parameter], texts: dict[str, str] | None = None
) -> None:
    """Write one MindSpore checkpoint file: complete under its name, or not at all.

    Args:
        path: The file, ending in ``.ckpt``.
        parameters: What to store, by name.
        texts: Further text entries.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{WEIGHTS_SUFFIX}")
    # A copy per parameter: ``ms.save_checkpoint`` takes Tensors, and the name may differ.
    rows = [{"name": name, "data": value} for name, value in parameters.items()]
    try:
        ms.save_checkpoint(rows, str(temporary), append_dict=texts, crc_check=True)
        temporary.chmod(0o644)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        for leftover in (temporary, temporary.with_suffix(".tmp")):
            with contextlib.suppress(FileNotFoundError):
                leftover.unlink()
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut, where the platform can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _check_crc(path: Path) -> None:
    """Raise if the file ends in MindSpore's CRC mark and the sum is wrong."""
    size = path.stat().st_size
    crc = 0
    with path.open("rb") as stream:
        left = size - _CRC_BYTES
        while left > 0:
            block = stream.read(min(left, 1 << 22))
            if not block:
                break
            crc = binascii.crc32(block, crc)
            left -= len(block)
        tail = stream.read()
    if tail.startswith(_CRC_MARK) and int.from_bytes(tail[len(_CRC_MARK) :], "big") != crc:
        raise _damaged(path)


def _damaged(path: Path) -> UserError:
    return UserError(
        f"{path}: the checkpoint is damaged or truncated; use an earlier one or copy it again"
    )


def load_file(path: Path) -> dict[str, Any]:
    """Read one checkpoint file.

    Args:
        path: The file; it need not come from this package.

    Returns:
        Parameters and texts by name.

    Raises:
        UserError: If the file is missing, damaged or not a checkpoint.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    _check_crc(path)
    try:
        # MindSpore logs a damaged file on stderr several lines long before it raises.
        with _quiet_stderr():
            loaded = ms.load_checkpoint(str(path))
    except (ValueError, TypeError, KeyError, RuntimeError):
        raise _damaged(path) from None
    if not loaded:
        raise _damaged(path)
    return dict(loaded)


@contextlib.contextmanager
def _quiet_stderr() -> Any:
    """Point file descriptor 2 at nothing: MindSpore's logger writes there from C++."""
    saved = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


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


def load_state(state: Mapping[str, Parameter], path: Path) -> Position:
    """Restore a train step and return where its loop stood.

    Args:
        state: Every parameter of the train step, by name.
        path: A state file.

    Returns:
        The position.

    Raises:
        UserError: If the file is damaged, is no state file, or belongs to another set-up.
    """
    loaded = load_file(path)
    position = _position(loaded.pop(_POSITION_KEY, None), path)
    assign(state, loaded, path)
    return position


def read_position(path: Path) -> Position:
    """Return the position in a state file without touching any parameter.

    Args:
        path: A state file.

    Returns:
        The position.

    Raises:
        UserError: If the file is damaged or is no state file.
    """
    return _position(load_file(path).get(_POSITION_KEY), path)


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


def assign(target: Mapping[str, Parameter], source: Mapping[str, Any], path: Path) -> None:
    """Copy stored values into parameters; nothing is copied unless everything fits.

    Args:
        target: Parameters by name.
        source: Stored parameters by name.
        path: Where they come from, for the message.

    Raises:
        UserError: If a name is missing on either side or a shape differs.
    """
    problems = [f"{name} is missing" for name in target if name not in source]
    problems += [f"{name} is not in this net" for name in source if name not in target]
    for name, parameter in target.items():
        if name in source and tuple(source[name].shape) != tuple(parameter.shape):
            problems.append(
                f"{name} has shape {tuple(source[name].shape)}, here {tuple(parameter.shape)}"
            )
    if problems:
        shown = "; ".join(problems[:_SHOWN_NAMES])
        more = len(problems) - _SHOWN_NAMES
        raise UserError(
            f"{path}: checkpoint of another architecture or set-up: {shown}"
            + (f"; and {more} more" if more > 0 else "")
            + "; use the configuration that it was trained with"
        )
    for name, parameter in target.items():
        value: np.ndarray = source[name].asnumpy()
        parameter.set_data(Tensor(value, parameter.dtype))


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
