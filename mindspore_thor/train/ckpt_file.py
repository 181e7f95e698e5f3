"""Single MindSpore checkpoint files: written whole or not at all, checked before they are used.

Every file ends with MindSpore's own CRC, so that a truncated or altered one is found before it is
parsed; ``ms.load_checkpoint`` reads it like any other.
"""

from __future__ import annotations

import binascii
import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops

from mindspore_thor.errors import UserError

SUFFIX = ".ckpt"
_CRC_MARK = b"crc_num"
_CRC_BYTES = len(_CRC_MARK) + 10
_SHOWN_NAMES = 3


def save_file(
    path: Path, parameters: Mapping[str, Parameter], texts: dict[str, str] | None = None
) -> None:
    """Write one MindSpore checkpoint file: complete under its name, or not at all.

    Args:
        path: The file, ending in ``.ckpt``.
        parameters: What to store, by name.
        texts: Further text entries.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")
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
        raise UserError(f"{path}: no such checkpoint file; give an existing {SUFFIX} file")
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
def _quiet_stderr() -> Iterator[None]:
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
        # In place: after set_data, graphs that are already compiled may go on with the old values.
        ops.assign(parameter, Tensor(value, parameter.dtype))
