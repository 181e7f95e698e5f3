"""Stopping on a signal between two updates instead of in the middle of one.

MindSpore takes SIGINT over whenever it runs a graph and turns it into a SIGTERM to its own process,
so that a handler in Python cannot tell the two apart, and an exception in the middle of MindSpore's
import aborts the process. A program therefore blocks the signals before any other thread exists,
and a thread of its own waits for them here: a blocked signal reaches no handler. Inside somebody
else's process ordinary handlers do what they can.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from mindspore_thor.streams import let_go, say_at_once

DEMANDS = (signal.SIGINT, signal.SIGTERM)
"""They ask to stop; the second one ends the program at once."""

NOTICES: tuple[int, ...] = tuple(
    getattr(signal, name)
    for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
)
"""They ask to stop, however often they come: a terminal has gone, or a scheduler will soon take the
machine back (then SIGTERM follows, which must not cut the saving short)."""

_held: set[int] = set()
_request: StopRequest | None = None


def stop_signals() -> list[int]:
    """Return the signals that ask this process to stop: not those that ``nohup`` switched off."""
    return [*DEMANDS, *(n for n in NOTICES if signal.getsignal(n) == signal.SIG_DFL)]


def hold_signals() -> None:
    """Take the signals in a thread from now on; they end the process at once.

    Once a :class:`StopRequest` is active, it decides. Does nothing where signals cannot be held.
    """
    if _held or not hasattr(signal, "pthread_sigmask"):
        return
    _held.update(stop_signals())
    signal.pthread_sigmask(signal.SIG_BLOCK, _held)
    threading.Thread(target=_wait, name="stop-request", daemon=True).start()


def _wait() -> None:
    while True:
        number = signal.sigwait(_held)
        request = _request
        if request is None or not request.note(number):
            if request is not None and request.farewell:
                say_at_once(request.farewell)
            os._exit(128 + number)


class StopRequest:
    """Remembers the first stop signal; without ``defer``, or at a second demand, leaves at once.

    A context manager: handlers that it replaced come back at its end.

    Attributes:
        signal_number: The signal that arrived, or None.
        farewell: What is printed when a signal ends the process at once; "" for nothing.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.farewell = ""
        self._deferred = False
        self._demanded = False
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
        self.farewell = ""

    def __enter__(self) -> StopRequest:
        global _request
        if _held:
            _request = self
        elif threading.current_thread() is threading.main_thread():
            for number in stop_signals():
                self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        global _request
        self._deferred = False
        self.farewell = ""
        if _request is self:
            _request = None
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def note(self, number: int) -> bool:
        """Remember a signal.

        Args:
            number: The signal.

        Returns:
            False if it must end the process at once.
        """
        again = self._demanded and number in DEMANDS
        if again or not self._deferred:
            return False
        self._demanded = self._demanded or number in DEMANDS
        if self.signal_number is None:
            self.signal_number = int(number)
        let_go()
        return True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.note(number):
            raise SystemExit(128 + number)
