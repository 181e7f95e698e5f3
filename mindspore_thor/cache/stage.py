"""The folder in which MindSpore's own cache reads and writes one graph at a time."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import mindspore as ms
from mindspore import Tensor, nn
from mindspore.nn.cell import _cell_graph_executor

ENABLE, PATH = "MS_COMPILER_CACHE_ENABLE", "MS_COMPILER_CACHE_PATH"
UNCHECKED = "MS_DEV_FORCE_USE_COMPILE_CACHE"
"""Skips MindSpore's check, which is of source files only: keys say more."""

_WRITTEN = re.compile(r"(.*compile_cache_)(\d+)\.mindir", re.DOTALL)
_api: Any = sys.modules[type(_cell_graph_executor).__module__]


class Stage:
    """The folder that MindSpore's cache uses in this process, for one graph at a time."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mindspore_thor-"))
        self._process = os.getpid()
        self._sources = self.folder / "sources"
        self._sources.write_text("see the key\n", encoding="ascii")
        self._place = ""
        self._next = 0
        self._lock = threading.Lock()
        self.usable = False
        atexit.register(self._remove)
        self._try()

    def _remove(self) -> None:
        if os.getpid() == self._process:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _try(self) -> None:
        """Compile next to nothing, and see whether MindSpore writes here."""
        probe = _Probe()
        with self.open(lambda: None, checked=True):
            probe.compile(Tensor(1.0, ms.float32))
        self.usable = self.collect() is not None

    @contextmanager
    def open(self, prepare: Callable[[], bool | None], checked: bool = False) -> Iterator[None]:
        """While this holds, MindSpore asks before it compiles a graph, and uses the folder.

        Args:
            prepare: called once, right before a graph is compiled; False for one to leave alone.
                A step that is compiled already does not call it.
            checked: whether MindSpore looks at its digest of source files, too.
        """
        asked: list[bool] = []

        def sources() -> list[str]:
            if asked:
                return []
            asked.append(True)
            return [] if prepare() is False else [str(self._sources)]

        settings = {ENABLE: "1", PATH: str(self.folder), **({} if checked else {UNCHECKED: "1"})}
        before = {name: os.environ.get(name) for name in settings}
        own = _api._get_compile_cache_dep_files
        os.environ.update(settings)
        _api._get_compile_cache_dep_files = sources
        try:
            yield
        finally:
            _api._get_compile_cache_dep_files = own
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    def free(self) -> bool:
        """Whether this process and thread may use it now; then :meth:`release` must follow."""
        return self.usable and os.getpid() == self._process and self._lock.acquire(blocking=False)

    def release(self, used: bool) -> None:
        """Let the next graph in; the folder is emptied if this one used it."""
        try:
            if used:
                with contextlib.suppress(OSError):
                    self.clear()
        finally:
            self._lock.release()

    def files(self) -> list[Path]:
        """All graphs in the folder, and whatever else MindSpore has put there."""
        found = [path for path in self.folder.rglob("*") if path.is_file()]
        return [path for path in found if path != self._sources and path.suffix != ".hash"]

    def clear(self) -> None:
        """Empty the folder."""
        for path in self.files():
            path.unlink()

    def lay(self, graph: bytes) -> None:
        """Lay a kept graph where MindSpore will look for it."""
        path = Path(f"{self._place}{self._next}.mindir")
        path.write_bytes(graph)
        os.utime(path, (1, 1))

    def skip(self) -> None:
        """Count a graph of which nothing was written: MindSpore counts it, too."""
        self._next += 1

    def collect(self) -> bytes | None:
        """What MindSpore has written, and empty the folder; None for nothing, or too much.

        A graph that was laid down and is untouched is no such thing.
        """
        self.skip()
        found = [path for path in self.files() if path.stat().st_mtime != 1]
        matched = _WRITTEN.fullmatch(str(found[0])) if len(found) == 1 else None
        content = None
        if matched is not None:
            self._place, self._next = matched[1], int(matched[2]) + 1
            content = found[0].read_bytes()
        self.clear()
        return content


class _Probe(nn.Cell):
    def construct(self, x: Tensor) -> Tensor:
        return x + 1.0


_stages: list[Stage | None] = []


def the_stage() -> Stage | None:
    """This process' one; None where MindSpore's cache cannot be used, or somebody else uses it."""
    if not _stages:
        _stages.append(None)
        if hasattr(_api, "_get_compile_cache_dep_files"):
            with contextlib.suppress(OSError, RuntimeError):
                made = Stage()
                _stages[0] = made if made.usable else None
    return _stages[0]
