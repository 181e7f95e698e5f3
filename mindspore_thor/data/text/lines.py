"""Lines of text, one after the other: from a file that may be compressed, never held whole."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from mindspore_thor.data.files import unreadable
from mindspore_thor.errors import UserError
from mindspore_thor.files import shown

_LONGEST_LINE = 1 << 20
"""Bytes of a line; a file without line ends is no text, and would fill the memory."""

_END = 1 << 16
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Side(Protocol):
    """One language of one split."""

    def lines(self) -> Iterator[str]:
        """Return the lines in order, without blanks at their ends."""

    def key(self) -> dict[str, Any] | None:
        """Return what tells these lines from others, or None where they need not be stored."""

    @property
    def title(self) -> str:
        """The name for messages."""


class TextFile:
    """The lines of a UTF-8 file, plain or compressed by gzip (a name that ends in ``.gz``).

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def title(self) -> str:
        """The name for messages."""
        return f"'{shown(self._path, 90)}'"

    def lines(self) -> Iterator[str]:
        """Return the lines in order, without blanks at their ends.

        Only a line feed ends a line; a carriage return before it is a blank.

        Raises:
            UserError: While iterating: the file cannot be read, a line is not UTF-8 or longer than
                1 MiB. Names the file and the line.
        """
        for number, line in enumerate(self._raw(), 1):
            if number == 1 and line.startswith(_BYTE_ORDER_MARK):
                line = line[len(_BYTE_ORDER_MARK) :]
            if len(line) > _LONGEST_LINE:
                raise UserError(
                    f"{self.title}, line {number}: longer than {_LONGEST_LINE} bytes; give text "
                    "with one sentence on each line"
                )
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{self.title}, line {number}: byte {error.start + 1} is not UTF-8; convert "
                    "the file, for instance with iconv"
                ) from None
            yield text.strip()

    def key(self) -> dict[str, Any]:
        """Return the file's size, time of change, and a hash of its first and last 64 KiB."""
        try:
            status = self._path.stat()
            with open(self._path, "rb") as file:
                ends = hashlib.sha256(file.read(_END))
                file.seek(max(0, status.st_size - _END))
                ends.update(file.read(_END))
        except OSError as error:
            raise unreadable(self._path, error) from None
        return {"size": status.st_size, "changed": status.st_mtime_ns, "ends": ends.hexdigest()}

    def _raw(self) -> Iterator[bytes]:
        try:
            zipped = self._path.name.endswith(".gz")
            with gzip.open(self._path) if zipped else open(self._path, "rb") as file:
                while True:
                    line = file.readline(_LONGEST_LINE + 1)
                    if not line:
                        return
                    yield line
        except (OSError, EOFError, zlib.error) as error:
            raise unreadable(self._path, error) from None


def count_lines(side: Side) -> int:
    """Return the number of lines, reading all of them.

    Raises:
        UserError: As ``lines``.
    """
    return sum(1 for _ in side.lines())


def check_parallel(source: Side, target: Side, counts: tuple[int, int]) -> None:
    """Refuse two sides that do not belong together.

    Args:
        source: The one side.
        target: The other.
        counts: Their numbers of lines.

    Raises:
        UserError: One of them is empty, or the numbers differ.
    """
    for side, count in zip((source, target), counts):
        if not count:
            raise UserError(f"{side.title} is empty: give a file with one sentence on each line")
    if counts[0] != counts[1]:
        raise UserError(
            f"{source.title} has {counts[0]} lines, but {target.title} has {counts[1]}: line n of "
            "the one must translate line n of the other"
        )


def spread(lines: Iterator[str], count: int, most: int) -> Iterator[str]:
    """Return at most ``most`` of ``count`` lines, at even distances.

    Args:
        lines: All lines.
        count: Their number.
        most: Most lines of the result; all are returned where there are no more.
    """
    if count <= most:
        return lines
    return (
        line
        for index, line in zip(itertools.count(), lines)
        if (index + 1) * most // count > index * most // count
    )
