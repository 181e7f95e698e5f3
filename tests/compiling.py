"""Compilation made cheaper, which is nine tenths of the tests' time.

``tests/conftest.py`` does it for the tests themselves; a script that a test runs in a process of
its own, to compile many graphs there, does it too.
"""

from __future__ import annotations

import gc
import inspect
from types import SimpleNamespace
from typing import Any

import mindspore as ms
import mindspore.graph.api


def make_compiling_cheaper() -> None:
    """Change MindSpore in this process; what it compiles stays the same."""
    # It collects garbage before every graph, which frees memory and does nothing else.
    mindspore.graph.api.gc = SimpleNamespace(collect=lambda: 0)
    # Its parser writes two of them for every node of a function.
    ms.log.debug = lambda *_, **__: None
    inspect.getsourcelines = _remembering(inspect.getsourcelines)
    gc.freeze()  # what was imported stays


def _remembering(read: Any) -> Any:
    """The parser asks for the source of the same functions in every graph."""
    known: dict[int, tuple[Any, Any]] = {}

    def remembered(function: Any) -> Any:
        code = getattr(inspect.unwrap(function), "__code__", None)
        if code is None:
            return read(function)
        if id(code) not in known:
            known[id(code)] = (code, read(function))  # a code that is held keeps its id
        lines, number = known[id(code)][1]
        return list(lines), number

    return remembered
