"""Ranks end when the launcher that watches them has gone, even if it was killed outright."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping

LAUNCHER = "MINDSPORE_THOR_LAUNCHER"
"""The environment variable with the launcher's process number."""

_TICK = 1.0


def follow_launcher(environment: Mapping[str, str], tick: float = _TICK) -> bool:
    """Ask this process to stop, by SIGTERM, once its launcher has ended.

    A launcher that is killed by SIGKILL passes nothing on; its ranks would train on unseen and keep
    the devices. They save and leave instead, as after Ctrl-C.

    Args:
        environment: The environment variables.
        tick: Seconds between two looks.

    Returns:
        Whether there is a launcher to follow.
    """
    launcher = environment.get(LAUNCHER, "")
    if not launcher.isdigit():
        return False
    thread = threading.Thread(
        target=_watch, args=(int(launcher), tick), name="follow-launcher", daemon=True
    )
    thread.start()
    return True


def _watch(launcher: int, tick: float) -> None:
    # msrun is the first parent; the launcher adopts the rank when msrun ends. A process number
    # alone would not do: it outlives its process until that one's own parent has noticed.
    adopted = False
    while True:
        parent = os.getppid()
        if adopted and parent != launcher:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        adopted = parent == launcher
        time.sleep(tick)
