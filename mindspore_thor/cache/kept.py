"""Graphs in a private folder, one file each, found by their keys."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from pathlib import Path
from typing import Any

from mindspore_thor.errors import UserError
from mindspore_thor.files import shown, write_file

SUFFIX = ".graph"
_MAGIC = b"thorgraf"
_OLD = 3600.0  # seconds after which an unfinished file is nobody's any more


class KeptGraphs:
    """The folder. Several runs may use it at once.

    Args:
        folder: made where it is missing; nobody else may be able to write into it.
        limit: bytes that all graphs may take together; those not used for longest go first.

    Raises:
        UserError: for a folder that others can write into, or that cannot be made.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder.absolute()
        self.limit = limit
        _make_private(self.folder)

    def read(self, key: str) -> tuple[bytes, Any] | None:
        """A graph and what was noted with it; None where there is none that is whole."""
        path = self.folder / f"{key}{SUFFIX}"
        try:
            content = path.read_bytes()
        except OSError:
            return None
        body = content[40:]
        whole = content[:8] == _MAGIC and content[8:40] == hashlib.sha256(body).digest()
        if whole:
            size = int.from_bytes(body[:4], "little")
            note = json.loads(body[4 : 4 + size])
            if note["key"] == key:
                with contextlib.suppress(OSError):
                    os.utime(path)
                return body[4 + size :], note["note"]
        self.forget(key)
        return None

    def keep(self, key: str, graph: bytes, note: Any) -> None:
        """Keep a graph, unless it alone is too large, and make room for it.

        Args:
            key: 64 hexadecimal digits.
            graph: as MindSpore wrote it.
            note: anything that JSON can hold.

        Raises:
            UserError: if the system refuses.
        """
        head = json.dumps({"key": key, "note": note}).encode()
        body = len(head).to_bytes(4, "little") + head + graph
        content = _MAGIC + hashlib.sha256(body).digest() + body
        if len(content) > self.limit:
            return
        try:
            self._make_room(len(content))
        except OSError as error:
            raise UserError(f"{shown(self.folder)}: {error.strerror}") from error
        write_file(self.folder / f"{key}{SUFFIX}", [content], len(content))

    def forget(self, key: str) -> None:
        """Remove an entry."""
        with contextlib.suppress(OSError):
            (self.folder / f"{key}{SUFFIX}").unlink()

    def _make_room(self, size: int) -> None:
        kept = []
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):  # another run may have removed it
                found = path.stat()
                if path.suffix == SUFFIX:
                    kept.append((found.st_mtime_ns, found.st_size, path))
                elif path.suffix == ".part" and time.time() - found.st_mtime > _OLD:
                    path.unlink()
        total = size + sum(entry[1] for entry in kept)
        for _, length, path in sorted(kept):
            if total <= self.limit:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            total -= length


def _make_private(folder: Path) -> None:
    problem = ""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        if hasattr(os, "getuid") and found.st_uid != os.getuid():
            problem = "belongs to another user"
        elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            problem = "can be written by others"
        elif not os.access(folder, os.W_OK | os.X_OK):
            problem = "cannot be written"
    except (OSError, ValueError) as error:
        problem = f"cannot be made ({getattr(error, 'strerror', None) or error})"
    if problem:
        raise UserError(
            f"folder for compiled graphs {shown(folder, 90)} {problem}: give one that is yours "
            "alone (mode 700), or false"
        )
