"""Where code comes from: whose it is, digests of its files, names that it uses or leaves unused."""

from __future__ import annotations

import dis
import functools
import hashlib
import os
import sys
import sysconfig
import types
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

import mindspore_thor

PACKAGE = "mindspore_thor"
_MODELS = f"{PACKAGE}.models."
_BY_VERSION = ("mindspore", "numpy")


class Unknown(Exception):
    """Something that a graph may depend on cannot be digested."""


@functools.cache
def _file_digest(path: str, _size: int, _changed: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def file_digest(path: str) -> str:
    """SHA-256 of a file, read again when it has changed.

    Raises:
        Unknown: where it cannot be read.
    """
    try:
        found = os.stat(path)
        return _file_digest(path, found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise Unknown(f"source file {path}: {error.strerror}") from None


def package_digest() -> str:
    """SHA-256 over the names and contents of this package's source files."""
    root = Path(mindspore_thor.__file__).parent
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    total = hashlib.sha256()
    for name in files:
        total.update(f"{name} {file_digest(str(root / name))}\n".encode())
    return total.hexdigest()


@functools.cache
def _standard(module: str) -> bool:
    """Whether a module belongs to Python itself."""
    top = module.partition(".")[0]
    if top in sys.builtin_module_names:
        return top != "__main__"
    # By its place, for a script of the user's may have the name of one of Python's modules.
    found = sys.modules.get(top)
    file = getattr(found, "__file__", None)
    if file is None:
        return top in ("sys", "builtins")
    file = os.path.realpath(file)
    library = os.path.realpath(sysconfig.get_paths()["stdlib"]) + os.sep
    return file.startswith(library) and not {"site-packages", "dist-packages"} & set(
        Path(file[len(library) :]).parts
    )


def owner(module: str | None) -> str:
    """Whose a module is: "version" where a version tells all, "package" for ours, or "user"."""
    top = (module or "").partition(".")[0]
    if top in _BY_VERSION or (top and _standard(top)):
        return "version"
    # The models come from outside of the package's folder where it is installed for editing.
    return "package" if top == PACKAGE and not f"{module}.".startswith(_MODELS) else "user"


def left_over(cell: nn.Cell) -> frozenset[str]:
    """Attributes that no graph uses.

    ``nn.Optimizer`` makes a second rate, of the same name, for parameter groups without rates of
    their own, ``nn.Embedding`` holds the values that its table began with, or has by now; neither
    ever looks at them again. Somebody else's subclass might.
    """
    if isinstance(cell, nn.Embedding):
        found = "init_tensor"
    elif isinstance(cell, nn.Optimizer) and not getattr(cell, "is_group_lr", True):
        found = "group_lr"
    else:
        return frozenset()
    classes = [cls for cls in type(cell).__mro__ if cls.__module__ != "pybind11_builtins"]
    if any(owner(cls.__module__) == "user" for cls in classes):
        return frozenset()
    return frozenset((found,))


def names_in(code: types.CodeType) -> frozenset[str]:
    """Names that a function may look up; texts count as names, for ``getattr``."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= names_in(constant)
        elif isinstance(constant, str):
            found.add(constant)
    return frozenset(found)


def imports(code: types.CodeType) -> bool:
    """Whether a function imports anything while it runs."""
    if any(instruction.opname == "IMPORT_NAME" for instruction in dis.get_instructions(code)):
        return True
    return any(imports(inner) for inner in code.co_consts if isinstance(inner, types.CodeType))


def versions() -> tuple[str, ...]:
    """What is trusted by its version."""
    return (ms.__version__, np.__version__, sys.version, package_digest())
