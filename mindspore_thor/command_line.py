"""What all command lines share: wrong input ends in one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import errno
import functools
import importlib
import os
import sys
from pathlib import Path
from typing import Any, Callable, NoReturn, TypeVar, cast

from mindspore_thor.errors import UserError, quoted, shortened

EXIT_USER = 2
"""Exit code of a command line for wrong input."""

EXIT_INTERRUPT = 130
"""The shell's exit code for Ctrl-C."""

MAX_NUMBER = 10**9
"""Largest whole number that an argument may be."""

_OWN = ("benchmarks", "mindspore_thor", "models")

_Main = TypeVar("_Main", bound=Callable[..., int])


class Parser(argparse.ArgumentParser):
    """Reports its errors like every other wrong input; options are not abbreviated.

    Raises:
        UserError: From ``parse_args``, for arguments that it does not take.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        raise UserError(f"{message}; see --help")


def whole_number(text: str) -> int:
    """Read a number from 1 to :data:`MAX_NUMBER`; fit for an argument's ``type``.

    Args:
        text: The number.

    Returns:
        The number.

    Raises:
        argparse.ArgumentTypeError: If it is something else.
    """
    digits = text.strip().lstrip("0")
    if not digits.isdecimal() or len(digits) > len(str(MAX_NUMBER)) or int(digits) > MAX_NUMBER:
        limit = f" and at most {MAX_NUMBER}" if digits.isdecimal() else ""
        raise argparse.ArgumentTypeError(
            f"{quoted(text)}; give a whole number of at least 1{limit}"
        )
    return int(digits)


def whole_numbers(text: str) -> list[int]:
    """Read a list of numbers; fit for an argument's ``type``.

    Args:
        text: Whole numbers of at least 1 with commas between them.

    Returns:
        The numbers, in their order.

    Raises:
        argparse.ArgumentTypeError: If it is something else.
    """
    try:
        return [whole_number(part) for part in text.split(",")]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{quoted(text)}; give whole numbers of at least 1 with commas, for example 8,256"
        ) from None


def path_text(text: str) -> str:
    """Read a path as text; fit for an argument's ``type``.

    Args:
        text: The path; nothing need be there.

    Returns:
        The same text.

    Raises:
        argparse.ArgumentTypeError: If it is empty, which would mean the current folder, or can be
            no path at all.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is empty; give a path")
    reason = ""
    try:
        os.stat(text)
    except ValueError:
        reason = "a path has no NUL character"
    except OSError as error:  # whoever uses the path says more of a missing file
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            reason = str(error.strerror)
    if reason:
        raise argparse.ArgumentTypeError(f"{quoted(text, 150)}: {reason}; give another path")
    return text


def path_argument(text: str) -> Path:
    """Read a path; fit for an argument's ``type``.

    Args:
        text: See :func:`path_text`.

    Returns:
        The path.

    Raises:
        argparse.ArgumentTypeError: If it is empty or can be no path at all.
    """
    return Path(path_text(text))


def report_error(error: Exception) -> None:
    """Print an error as one line on stderr.

    Args:
        error: Its message may have several lines and any length; it is shortened to one.
    """
    print(f"error: {shortened(str(error))}", file=sys.stderr, flush=True)


def _missing_package(error: ModuleNotFoundError) -> UserError | None:
    """Return what to tell of a package that this Python lacks; None where that is not the cause."""
    name = error.name or "."
    if "." in name or name in _OWN:
        return None  # a defect here, or a version that does not fit: the traceback says more
    return UserError(
        f"{sys.executable} has no package {name!r}; in the repository's folder, run "
        "'pip install .', or use .venv/bin/python, which 'bash scripts/run_standalone_train.sh' "
        "sets up"
    )


def need(*packages: str) -> None:
    """End the program in one line where this Python lacks a package.

    For what programs import at their top, where no function reports what is missing.

    Args:
        *packages: Names to import.

    Raises:
        SystemExit: With :data:`EXIT_USER`, where one is missing.
    """
    for name in packages:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing = _missing_package(error)
            if missing is None:
                raise
            report_error(missing)
            raise SystemExit(EXIT_USER) from None


def _bad_file(error: OSError) -> UserError | None:
    """Return what to tell of a file that the system refuses; None where it names no file."""
    if not isinstance(error.filename, (str, bytes, os.PathLike)):
        return None  # a socket, a process: nothing that a line about files would explain
    return UserError(
        f"'{os.fsdecode(error.filename)}': {error.strerror}; check the path, its permissions and "
        "the free space"
    )


def one_line_errors(main: _Main) -> _Main:
    """Make a command line's function report a ``UserError`` and return :data:`EXIT_USER`.

    A package that is not installed, for instance MindSpore, is such an error, too, and so is a
    file that cannot be read or written. Ctrl-C ends in one line as well.

    Args:
        main: Returns an exit code.

    Returns:
        The same function otherwise; other exceptions pass.
    """

    @functools.wraps(main)
    def run(*arguments: Any, **options: Any) -> int:
        try:
            return main(*arguments, **options)
        except UserError as error:
            report_error(error)
            return EXIT_USER
        except ModuleNotFoundError as error:
            missing = _missing_package(error)
            if missing is None:
                raise
            report_error(missing)
            return EXIT_USER
        except OSError as error:
            refused = _bad_file(error)
            if refused is None:
                raise
            report_error(refused)
            return EXIT_USER
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return EXIT_INTERRUPT

    return cast(_Main, run)
