"""Standard output and error that cannot end a program: closed, without a reader, on a full disk.

What cannot be written is dropped, and :func:`lost_output` tells at the end whether anything was.
"""

from __future__ import annotations

import io
import os
import select
import sys
import threading
from typing import Any, TextIO

_TICK = 0.5
# Where this is missing (Windows), files cannot be waited for.
_BLOCK: int | None = getattr(select, "PIPE_BUF", None)

_let_go = threading.Event()
_raw: dict[int, _Forgiving] = {}


class _Forgiving(io.FileIO):
    """A stream's descriptor: its errors are remembered instead of raised.

    A reader that does not read (a pager, a terminal after Ctrl-S) is waited for in a way that
    :func:`let_go` ends; a plain ``write`` would wait in the system for as long as it takes.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.problem: OSError | None = None

    def write(self, data: Any, /) -> int:
        block = memoryview(data).cast("B")
        try:
            if _BLOCK is not None:
                block = block[:_BLOCK]  # no more than what "ready" promises
                while not select.select((), (self,), (), _TICK)[1]:
                    if _let_go.is_set():
                        return len(data)
            return super().write(block) or 0
        except OSError as error:
            self.problem = self.problem or error
            return len(data)


def open_streams() -> None:
    """Make the standard streams safe; for a program's beginning, before anything opens a file.

    A closed stream becomes ``/dev/null``. Otherwise the next file that is opened, a checkpoint
    perhaps, would get its number, and MindSpore's messages would be written into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            os.set_inheritable(descriptor, True)
    sys.stdout = _stream(sys.stdout, 1)
    sys.stderr = _stream(sys.stderr, 2)


def _stream(former: TextIO | None, descriptor: int) -> TextIO:
    encoding, errors = "utf-8", "strict"
    if former is not None:
        former.flush()
        encoding, errors = former.encoding, former.errors or errors
    if errors == "strict":
        errors = "backslashreplace"  # a path of bytes that are no text is shown, not refused
    _raw[descriptor] = _Forgiving(descriptor)
    return io.TextIOWrapper(
        io.BufferedWriter(_raw[descriptor]), encoding, errors, line_buffering=True
    )


def let_go() -> None:
    """From now on drop what a reader does not take at once: the program has been asked to stop."""
    _let_go.set()


def say_at_once(text: str) -> None:
    """Write a line to standard output past Python's buffers, or drop it; for other threads.

    Args:
        text: The line.
    """
    try:
        if _BLOCK is None or select.select((), (1,), (), 0)[1]:
            os.write(1, (text + "\n").encode("utf-8", "backslashreplace")[:_BLOCK])
    except OSError:
        return


def lost_output() -> OSError | None:
    """Return the first error of standard output, or None where all of it was written."""
    return _raw[1].problem if 1 in _raw else None
