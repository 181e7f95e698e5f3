"""Single MindSpore checkpoint files: written whole or not at all, checked before they are used.

Every file ends with MindSpore's own CRC and begins with a digest of its contents; what
``ms.load_checkpoint`` makes of it is the same as without. Files of MindSpore itself, which have no
digest, are read as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, ops
from mindspore import dtype as mstype

from mindspore_thor.errors import UserError
from mindspore_thor.files import shown, write_file
from mindspore_thor.run.ckpt_format import Contents, DamagedError, decode_file, encode_file

SUFFIX = ".ckpt"
_SHOWN_NAMES = 3
_SHOWN_LENGTH = 100
_FLOATS = (mstype.float16, mstype.bfloat16, mstype.float32, mstype.float64)


def save_file(
    path: Path, parameters: Mapping[str, Parameter], texts: dict[str, str] | None = None
) -> None:
    """Write one MindSpore checkpoint file: complete under its name, or not at all.

    Args:
        path: The file, ending in ``.ckpt``.
        parameters: What to store, by name.
        texts: Further text entries.

    Raises:
        UserError: If the system refuses; the file that stood there is untouched.
    """
    texts = texts or {}
    size = sum(value.nbytes + len(name) + 64 for name, value in parameters.items())
    size += sum(4 * len(text) + len(name) + 64 for name, text in texts.items())
    write_file(path, encode_file(parameters, texts), size)


def damaged(path: Path, reason: object = "") -> UserError:
    """Return the error for a file that cannot be used.

    Args:
        path: The file.
        reason: What is wrong with it.
    """
    why = f" ({shown(reason, 50)})" if str(reason) else ""
    return UserError(
        f"{shown(path)}: the checkpoint is damaged or truncated{why}; use an earlier one or copy "
        "it again"
    )


def read_file(path: Path) -> Contents:
    """Read one checkpoint file with everything that is known of it.

    Args:
        path: The file; it need not come from this package.

    Returns:
        Tensors and texts by name, and the digest.

    Raises:
        UserError: If the file is missing, damaged or not a checkpoint.
    """
    if not path.is_file():
        raise UserError(f"{shown(path)}: no such checkpoint file; give an existing {SUFFIX} file")
    try:
        with path.open("rb") as stream:
            return decode_file(stream)
    except DamagedError as error:
        raise damaged(path, error) from None
    except OSError as error:
        raise UserError(
            f"{shown(path)}: the checkpoint cannot be read ({shown(error.strerror, 60)}); check "
            "its permissions and the disk"
        ) from None
    except MemoryError:
        raise UserError(
            f"{shown(path)}: the checkpoint does not fit into the memory; use a machine with more"
        ) from None


def load_file(path: Path) -> dict[str, Any]:
    """Read one checkpoint file.

    Args:
        path: The file; it need not come from this package.

    Returns:
        Tensors and texts by name.

    Raises:
        UserError: If the file is missing, damaged or not a checkpoint.
    """
    values = read_file(path).values
    if not values:
        raise damaged(path, "it is empty")
    return values


def assign(target: Mapping[str, Parameter], source: Mapping[str, Any], path: Path) -> None:
    """Copy stored values into parameters; nothing is copied unless everything fits.

    Args:
        target: Parameters by name.
        source: Stored parameters by name.
        path: Where they come from, for the message.

    Raises:
        UserError: If a name is missing on either side, a shape or a kind of number differs, or a
            value is not finite.
    """
    problems = [f"{name} is missing" for name in target if name not in source]
    problems += [f"{shown(name, 60)} is not in this net" for name in source if name not in target]
    for name, parameter in target.items():
        if name in source:
            problems += _differences(name, source[name], parameter)
    if problems:
        listed = [shown(problem, _SHOWN_LENGTH) for problem in problems[:_SHOWN_NAMES]]
        while len(listed) > 1 and len("; ".join(listed)) > _SHOWN_LENGTH:
            listed.pop()
        more = len(problems) - len(listed)
        raise UserError(
            f"{shown(path, 90)}: checkpoint of another architecture or set-up: {'; '.join(listed)}"
            + (f"; and {more} more" if more > 0 else "")
            + "; use the configuration that it was trained with"
        )
    converted = {name: _converted(source[name], parameter) for name, parameter in target.items()}
    for name, value in converted.items():
        if value.dtype in _FLOATS and not _finite(value):
            raise UserError(
                f"{shown(path)}: {shown(name, 60)} holds values that are not finite; use an "
                "earlier checkpoint"
            )
    for name, parameter in target.items():
        # In place: after set_data, graphs that are already compiled may go on with the old values.
        ops.assign(parameter, converted[name])


def _differences(name: str, stored: Any, parameter: Parameter) -> list[str]:
    if isinstance(stored, str):
        return [f"{name} is a text"]
    if tuple(stored.shape) != tuple(parameter.shape):
        return [f"{name} has shape {tuple(stored.shape)}, here {tuple(parameter.shape)}"]
    # Weights of another precision are welcome, whole numbers in the place of fractions are not.
    both = (stored.dtype, parameter.dtype)
    if both[0] != both[1] and not all(kind in _FLOATS for kind in both):
        return [f"{name} has type {both[0]}, here {both[1]}"]
    return []


def _converted(stored: Any, parameter: Parameter) -> Tensor:
    if stored.dtype == parameter.dtype:
        return Tensor(stored)
    return Tensor(stored.astype(mstype.float32).asnumpy(), parameter.dtype)


def _finite(value: Tensor) -> bool:
    if value.dtype == mstype.bfloat16:
        bits = np.frombuffer(value.get_bytes(), np.uint16)
        return bool(((bits & 0x7F80) != 0x7F80).all())
    return bool(np.isfinite(value.asnumpy()).all())
