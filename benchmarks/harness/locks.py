"""Folders that one process at a time may work in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(folder: Path, *, wait: bool) -> Iterator[int]:
    """Hold a folder, which is made where it is missing, against other processes.

    Args:
        folder: The folder.
        wait: Whether to wait for another process.

    Yields:
        A file descriptor. A process that inherits it holds the folder as well.

    Raises:
        BlockingIOError: If another process holds the folder, and ``wait`` is false.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield descriptor
    finally:
        os.close(descriptor)
