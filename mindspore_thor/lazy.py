"""Packages whose public names are imported when they are first used (PEP 562).

So the parts that need no MindSpore, for instance the rank tables, run without it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any, Callable


def lazy_names(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make a package's ``__getattr__`` and ``__dir__``.

    Args:
        package: The package's ``__name__``.
        modules: Name -> the module that defines it; ``{package}.{name}`` stands for that module.

    Returns:
        The two functions. A name is looked up once and then an ordinary attribute.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = importlib.import_module(modules[name])
        if modules[name] != f"{package}.{name}":
            value = getattr(value, name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return get, names
