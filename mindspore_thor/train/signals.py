"""Stopping on SIGINT and SIGTERM between two updates instead of in the middle of one.

MindSpore takes SIGINT over whenever it runs a graph and turns it into a SIGTERM to its own process,
so that a handler in Python cannot tell the two apart. A program therefore blocks both signals
before any thread exists (``train.py`` does), and a thread of its own waits for them here: a blocked
signal reaches no handler. Inside somebody else's process ordinary handlers do what they can.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

HELD = (signal.SIGINT, signal.SIGTERM)


def _are_held() -> bool:
    if not hasattr(signal, "pthread_sigmask"):
        return False
    return set(HELD) <= set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


class StopRequest:
    """Remembers the first stop signal; without ``defer``, or at the second one, leaves at once.

    A context manager: handlers that it replaced come back at its end.

    Attributes:
        signal_number: The signal that arrived, or None.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._deferred = False
        self._former: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """The shell's code for a process ended by this signal (130, 143); 0 without one."""
        return 0 if self.signal_number is None else 128 + self.signal_number

    def requested(self) -> bool:
        """Return whether a signal has arrived."""
        return self.signal_number is not None

    def defer(self) -> None:
        """From now on only remember the first signal: there is something to save."""
        self._deferred = True

    def __enter__(self) -> StopRequest:
        if _are_held():
            threading.Thread(target=self._wait, name="stop-request", daemon=True).start()
        elif threading.current_thread() is threading.main_thread():
            for number in HELD:
                self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._deferred = False
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _wait(self) -> None:
        while True:
            number = signal.sigwait(HELD)
            if not self._note(number):
                sys.stdout.flush()
                os._exit(128 + number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._note(number):
            raise SystemExit(128 + number)

    def _note(self, number: int) -> bool:
        """Remember a signal; return False if it must end the process at once."""
        if self.signal_number is not None or not self._deferred:
            return False
        self.signal_number = int(number)
        return True
