"""A digest of all that a compiled graph takes for constant.

The compiler reads a cell's attributes and the functions that it calls, and folds what it finds into
the graph. So the digest walks over the same things: attributes of all cells, values of tensors
(parameters only by name, shape and type, for their values enter when the graph runs), the code and
the source files of classes and functions, and the globals that these name. MindSpore, NumPy and
Python are trusted by their version, this package by the digest of its source files and the values
of its modules' constants. Whatever cannot be digested for certain raises :class:`Unknown`.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import functools
import hashlib
import inspect
import os
import sys
import types
import weakref
from collections import OrderedDict
from pathlib import PurePath
from typing import Any

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore._c_expression import MetaFuncGraph_, typing

from mindspore_thor.cache.passing import (
    CHANGING,
    NOT_COMPILED,
    OF_GRADIENTS,
    OPEN_ENDED,
    PASSING,
    ROOMS,
)
from mindspore_thor.cache.sources import Unknown, file_digest, imports, left_over, names_in, owner

_SIMPLE = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), range, slice)
_CONTAINERS = (
    *(tuple, ParameterTuple, list, OrderedDict, dict, set, frozenset, types.MappingProxyType),
)
_BUILT_IN = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)


class Fingerprint:
    """Collects values; equal digests mean equal values in equal order.

    Objects with an identity are digested once, and are their number from then on: so it counts
    whether two layers share a cell. A value may be added while others change, not while it does.
    """

    def __init__(self) -> None:
        self._total = hashlib.sha256()
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []  # so that no id is used twice
        self.names: dict[str, int] = {}
        self._way: list[str] = []
        self._outside: dict[str, str] = {}  # methods that no graph can hold
        self._named: set[str] = set()  # by the user's functions that one may hold

    def digest(self) -> str:
        """Hexadecimal SHA-256 of all that was added.

        Raises:
            Unknown: where something that runs while a graph is compiled may reach a method that
                looks things up by itself.
        """
        for name in sorted(self._outside.keys() & self._named):
            raise Unknown(self._outside[name])
        return self._total.hexdigest()

    def add(self, value: Any, name: str = "") -> None:
        """Add a value and everything that it refers to.

        Args:
            value: any.
            name: where it was found, for the message.

        Raises:
            Unknown: for what cannot be digested for certain.
        """
        self._way.append(name)
        try:
            self._add(value)
        except RecursionError:
            raise Unknown("values that are nested too deeply") from None
        self._way.pop()

    # -- kinds of values ------------------------------------------------------------------------

    def _put(self, *words: str | bytes) -> None:
        for word in words:
            data = word if isinstance(word, bytes) else word.encode("utf-8", "surrogatepass")
            self._total.update(len(data).to_bytes(8, "little"))
            self._total.update(data)

    def _known(self, value: Any) -> bool:
        """Whether an object was met before; then its number is added."""
        number = self._numbers.setdefault(id(value), len(self._numbers))
        if number == len(self._alive):
            self._alive.append(value)
            return False
        self._put("again", str(number))
        return True

    def _add(self, value: Any) -> None:
        kind = type(value)
        if kind in _SIMPLE:
            self._put(kind.__name__, repr(value))
        elif kind in _CONTAINERS:
            self._container(value)
        elif isinstance(value, Parameter):
            self._parameter(value)
        elif isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, (np.ndarray, np.generic)):
            self._array(np.asarray(value), kind.__name__)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.ModuleType):
            self._put("module", value.__name__)  # what is used of it is added by name
        elif not self._known(value):
            self._object(value)

    def _container(self, value: Any) -> None:
        # Equal tuples may be one object in one process and two in another: MindSpore puts a new
        # ParameterTuple into a cell when it compiles it.
        if not isinstance(value, (tuple, frozenset)) and self._known(value):
            return
        self._put(type(value).__name__, str(len(value)))
        if isinstance(value, (set, frozenset)):
            if not all(type(entry) in _SIMPLE for entry in value):
                raise Unknown(f"a set of objects ({self._place()})")
            for text in sorted(f"{type(entry).__name__} {entry!r}" for entry in value):
                self._put(text)
        elif isinstance(value, (tuple, list)):
            for number, entry in enumerate(value):
                self.add(entry, str(number))
        else:
            for key, entry in value.items():
                self.add(key, "key")
                self.add(entry, str(key)[:40])

    def _parameter(self, value: Parameter) -> None:
        if self._known(value):
            return
        if self.names.setdefault(value.name, id(value)) != id(value):
            raise Unknown(f"two parameters with the name {value.name}")
        self._put("parameter", value.name, str(value.shape), str(value.dtype))
        for name in ("requires_grad", "layerwise_parallel", "parallel_optimizer", "requires_aggr"):
            self._put(repr(getattr(value, name)))

    def _tensor(self, value: Tensor) -> None:
        if self._known(value):
            return
        if getattr(value, "init", None) is not None:
            raise Unknown(f"a tensor without values ({self._place()})")
        try:
            array = value.asnumpy()
        except (TypeError, RuntimeError, ValueError) as error:
            raise Unknown(f"a tensor of type {value.dtype} ({self._place()})") from error
        self._put("tensor", str(value.dtype))
        self._array(array, "")

    def _array(self, array: np.ndarray, kind: str) -> None:
        if array.dtype.hasobject:
            raise Unknown(f"an array of objects ({self._place()})")
        self._put("array", kind, str(array.dtype), str(array.shape))
        self._put(np.ascontiguousarray(array).tobytes())

    def _object(self, value: Any) -> None:
        kind = type(value)
        where = owner(kind.__module__)
        if getattr(kind, "digested_as_nothing", False):
            self._put("nothing")
        elif isinstance(value, enum.Enum):
            self._put("enum", kind.__qualname__, value.name)
            self.add(value.value)
        elif where == "version" and hasattr(kind, "__members__"):  # of MindSpore's own making
            self._put("enum", kind.__qualname__, value.name)
        elif isinstance(value, PurePath):
            self._put("path", str(value))
        elif isinstance(value, types.CodeType):
            self._code(value)
        elif isinstance(value, types.MethodType):
            self._put("method", value.__func__.__qualname__)
            self.add(value.__func__)
            self.add(value.__self__)
        elif isinstance(value, functools.partial):
            self._put("partial")
            self.add((value.func, value.args, value.keywords))
        elif isinstance(value, weakref.ref):
            self._put("reference")
            self.add(value())
        elif isinstance(value, (staticmethod, classmethod)):
            self.add(value.__func__)
        elif isinstance(value, property):
            self.add((value.fget, value.fset))
        elif isinstance(value, _BUILT_IN) or (where == "version" and kind.__name__ == "ufunc"):
            self._put("built in", str(getattr(value, "__module__", "")), value.__name__)
            self._put(str(getattr(value, "__qualname__", "")))
        elif isinstance(value, typing.Type):
            self._put("dtype", str(value))
        elif isinstance(value, functools._lru_cache_wrapper) and where == "version":
            self.add(value.__wrapped__)
        elif self._transparent(value, where):
            self._attributes(value)
        else:
            raise Unknown(f"a {kind.__module__}.{kind.__qualname__} ({self._place()})")

    def _transparent(self, value: Any, where: str) -> bool:
        """Whether an object is nothing but its class and its attributes."""
        if isinstance(value, (nn.Cell, ops.Primitive, MetaFuncGraph_)):
            return True
        if where == "package" or isinstance(value, (argparse.Namespace, types.SimpleNamespace)):
            return True
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return True
        if dataclasses.is_dataclass(value) and not isinstance(value, (dict, list, tuple, set)):
            return True
        module = type(value).__module__
        return module.startswith(("mindspore.common.initializer", "mindspore.nn", "mindspore.ops"))

    def _attributes(self, value: Any) -> None:
        kind = type(value)
        self._put("object")
        self._class(kind)
        if isinstance(value, (tuple, list)):
            self._put(str(len(value)))
            for number, entry in enumerate(value):
                self.add(entry, str(number))
        slots = [name for cls in kind.__mro__ for name in cls.__dict__.get("__slots__", ())]
        held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
        held.update(getattr(value, "__dict__", {}))
        passing: frozenset[str] = frozenset()
        if isinstance(value, nn.Cell):
            passing = PASSING | left_over(value)
        elif isinstance(value, ops.GradOperation):
            passing = OF_GRADIENTS
        for name in sorted(held.keys() - passing):
            entry = held[name]
            if name.startswith("_lazy_"):  # hooks, under numbers that count all of the process
                if not entry:
                    continue  # MindSpore makes empty ones while it works
                entry = list(entry.values()) if isinstance(entry, dict) else entry
            self._put(name)
            self.add(entry, name)

    def _class(self, kind: type) -> None:
        self._put("class", str(kind.__module__), kind.__qualname__)
        for cls in kind.__mro__:
            where = owner(cls.__module__)
            if cls is object or self._known(cls):
                continue
            if where == "version":
                self._replaced(cls)
                continue
            self._put(cls.__module__, cls.__qualname__)
            if where == "package":
                self._constants_of(cls.__module__)
                continue
            if issubclass(cls, nn.Cell) or "construct" in vars(cls):
                self._source(cls)
            for name, entry in vars(cls).items():
                if name in NOT_COMPILED or self._is_outside(cls, name, entry):
                    continue
                if type(entry) in (*_SIMPLE, tuple, list, dict) and not name.startswith("__"):
                    self._put(name)
                    self.add(entry, name)
                elif isinstance(
                    entry, (types.FunctionType, staticmethod, classmethod, property, Tensor)
                ):
                    self._put(name)
                    self.add(entry, f"{cls.__name__}.{name}")
                elif not name.startswith("__"):
                    self._put(name)
                    self.add(entry, name)

    def _is_outside(self, cls: type, name: str, entry: Any) -> bool:
        """Whether a cell's method cannot be in a graph; its code is added.

        MindSpore compiles no import. What runs in Python while it compiles, a property, say, might
        still call such a method: by its name, then.
        """
        if not (isinstance(entry, types.FunctionType) and issubclass(cls, nn.Cell)):
            return False
        if name.startswith("__") or entry.__dict__ or not imports(entry.__code__):
            return False
        self._outside[name] = f"{entry.__qualname__}, which looks things up by itself"
        self._put("outside", name)
        self._code(entry.__code__)
        return True

    def _replaced(self, cls: type) -> None:
        """Functions in a class of MindSpore's that are not MindSpore's own."""
        made = "<locals>" in cls.__qualname__  # by a decorator, around a function of the user's
        if not (made or issubclass(cls, (nn.Cell, ops.Primitive))):
            return
        for name, entry in vars(cls).items():
            if isinstance(entry, types.FunctionType) and (
                owner(entry.__module__) == "user" or (made and entry.__closure__)
            ):
                self._put(name)
                self._function(entry)

    def _source(self, what: Any) -> None:
        try:
            path = inspect.getsourcefile(what)
        except TypeError:
            path = None
        if path is None or not os.path.isfile(path):
            raise Unknown(f"{what.__qualname__}, whose source file is not there")
        self._put("source", file_digest(path))

    def _function(self, value: types.FunctionType) -> None:
        where = owner(value.__module__)
        self._put("function", str(value.__module__), value.__qualname__)
        if (where == "version" and "<locals>" not in value.__qualname__) or self._known(value):
            return
        if value.__closure__:
            for cell in value.__closure__:
                try:
                    content = cell.cell_contents
                except ValueError:
                    raise Unknown(f"an unfinished function ({self._place()})") from None
                self.add(content, value.__qualname__)
        self.add((value.__defaults__, value.__kwdefaults__), value.__qualname__)
        if where == "package":
            self._constants_of(value.__module__)
        if where != "user":
            return
        self._source(value)
        self._code(value.__code__)
        names = names_in(value.__code__)
        self._named |= names
        used = {value.__globals__[name] for name in names if _is_module(value.__globals__, name)}
        changing = {module.__name__ for module in used} & CHANGING
        changing |= {"random"} & names if np in used else set()
        if names & (OPEN_ENDED | PASSING) or changing or imports(value.__code__):
            raise Unknown(f"{value.__qualname__}, which looks things up by itself")
        for name in sorted(names & value.__globals__.keys()):
            entry = value.__globals__[name]
            self._put(name)
            self.add(entry, name)
            self._members(entry, names)
        inner = {k: v for k, v in value.__dict__.items() if k != "__wrapped__"}
        self.add((inner, value.__dict__.get("__wrapped__")), value.__qualname__)

    def _members(self, module: Any, names: frozenset[str], passed: tuple[Any, ...] = ()) -> None:
        """What a function uses of a module of the user's."""
        if not isinstance(module, types.ModuleType) or owner(module.__name__) != "user":
            return
        if any(module is other for other in passed):
            return
        for name in sorted(names & vars(module).keys()):
            entry = vars(module)[name]
            self._put(name)
            self.add(entry, f"{module.__name__}.{name}")
            self._members(entry, names, (*passed, module))

    def _code(self, code: types.CodeType) -> None:
        self._put("code", code.co_code, str(code.co_flags), str(code.co_argcount))
        for names in (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars):
            self._put(" ".join(names))
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._code(constant)
            else:
                self.add(constant, "constant")

    def _constants_of(self, module: str) -> None:
        """Values of this package's modules; its code is in the digest of the sources."""
        found = sys.modules.get(module)
        room = module.split(".")[1:2]
        if found is None or room == [] or room[0] not in ROOMS or self._known(found):
            return
        for name, entry in sorted(vars(found).items()):
            if name.isupper() and type(entry) in (bool, int, float, str):
                self._put(name, repr(entry))
            elif isinstance(entry, types.FunctionType) and owner(entry.__module__) == "user":
                self._put(name)
                self.add(entry, name)

    def _place(self) -> str:
        return ".".join(filter(None, self._way))[-120:] or "at the top"


def _is_module(names: dict[str, Any], name: str) -> bool:
    return isinstance(names.get(name), types.ModuleType)
