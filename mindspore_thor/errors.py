"""The one exception for mistakes that a user can mend, and how it quotes what was given."""

from __future__ import annotations

import reprlib
from typing import Any

LINE = 290
"""Most characters of a message: with ``error: `` before it a line has fewer than 300."""

_LONG_INTEGER = 10**30


def shortened(text: str, limit: int = LINE) -> str:
    """Return a text as one printable line.

    Args:
        text: May have several lines, control characters and any length.
        limit: Most characters of the result.

    Returns:
        The text with single blanks between its words, with escapes for what does not print, and
        without its middle where it is too long: what is wrong comes first, the remedy last.
    """
    if len(text) > 8 * limit:  # enough is left of both ends; the rest need not be looked at
        text = f"{text[: 4 * limit]} ... {text[-4 * limit :]}"
    line = " ".join(text.split())
    line = "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line
    )
    if len(line) <= limit:
        return line
    tail = limit // 3
    return f"{line[: limit - tail - 3]}...{line[-tail:]}"


class _Repr(reprlib.Repr):
    """``repr`` with limits, also for numbers that Python refuses to write out."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxstring = self.maxother = 60
        self.maxtuple = self.maxlist = self.maxdict = 8

    def repr_int(self, value: int, level: int) -> str:
        if -_LONG_INTEGER < value < _LONG_INTEGER:
            return repr(value)
        return f"<whole number of about {int(value.bit_length() * 0.30103) + 1} digits>"


def quoted(value: Any, limit: int = 80) -> str:
    """Return what ``repr`` shows of a value, cut to a length that leaves room for the remedy.

    Args:
        value: Anything that was given, however large.
        limit: Most characters of the result.
    """
    return shortened(_Repr().repr(value), limit)


class UserError(ValueError):
    """Bad input: the message is one line that names the thing and the remedy.

    The command lines print it as ``error: ...`` and leave with exit code 2; inside Python it is an
    ordinary ``ValueError``.

    Args:
        message: Shortened to :data:`LINE` characters, whatever is quoted in it. A traceback is
            kept, for MindSpore's data pipeline makes an exception anew with one as its message.
    """

    def __init__(self, message: object = "") -> None:
        text = str(message)
        super().__init__(text if "Traceback (most recent" in text else shortened(text))


class TrainingError(RuntimeError):
    """Training cannot go on although the input was valid: numerical failure, with the remedy."""
