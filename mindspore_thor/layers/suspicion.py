"""Whether a loss may use weights outside of their layers: cheap, and rather too often yes.

A yes costs one more graph, which then tells exactly; see :mod:`mindspore_thor.step.elsewhere`.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Iterator
from typing import Any

from mindspore import Parameter, nn

from mindspore_thor.layers.registry import bias_names, weight_names
from mindspore_thor.layers.uses import chains, is_mindspores

_LISTS = {
    *("get_parameters", "trainable_params", "parameters_and_names", "parameters_dict"),
    *("untrainable_params", "_params"),
}
_PLAIN = (str, bytes, int, float, complex, bool, type(None), types.CodeType)
_REGISTRIES = ("_params", "_cells")
_MANY = 20_000


class _Search:
    """Walks over all that a network and a loss function hold and run."""

    def __init__(self, weights: Iterable[Parameter], layers: Iterable[nn.Cell]) -> None:
        self._weights = {id(p) for p in weights}
        self._layers = {id(cell) for cell in layers}
        self._seen: dict[int, Any] = {}  # holds on to what was seen, whose id would be free else
        self._chains: dict[tuple[types.CodeType, bool], list[list[str]]] = {}
        self._found = False
        self._read = weight_names() | bias_names()
        self._names: set[str] = set()
        self._methods: dict[str, list[tuple[types.FunctionType, Any]]] = {}

    def suspicious(self, *roots: Any) -> bool:
        """Whether something that runs, from these on, may read a weight of a layer."""
        waiting = [*roots]
        while waiting:
            if len(self._seen) > _MANY:
                return True  # too much to look at
            value = waiting.pop()
            if isinstance(value, _PLAIN) or id(value) in self._seen or self._is_ours(value):
                continue
            self._seen[id(value)] = value
            if isinstance(value, Parameter):
                if id(value) in self._weights:
                    return True  # held outside of its layer: those inside are not walked to
                continue
            if isinstance(value, types.FunctionType):
                if not is_library(value):
                    self._found |= self._reads(value, None)
                    waiting.extend(self._behind(value))
            elif isinstance(value, types.MethodType):
                waiting.extend((value.__self__, value.__func__))
            else:
                waiting.extend(self._inside(value))
                waiting.extend(self._run_by(value))
            waiting.extend(self._called())
            if self._found:
                return True
        return False

    def _is_ours(self, value: Any) -> bool:
        """Whether it is a hook, or an optimizer; a layer with a hook has a class of ours, too."""
        name = str(getattr(type(value), "__module__", ""))
        return name.startswith("mindspore_thor.") and id(value) not in self._layers

    def _inside(self, value: Any) -> Iterator[Any]:
        """What a value holds."""
        if isinstance(value, (list, tuple, set, frozenset)):
            yield from value
        elif isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, functools.partial):
            yield from (value.func, *value.args, *value.keywords.values())
        elif isinstance(value, nn.Cell):
            yield from value.cells()
            if id(value) not in self._layers:
                yield from value.get_parameters(expand=False)
            if not is_mindspores(type(value)):
                held = vars(value).items()
                yield from [inner for name, inner in held if name not in _REGISTRIES]
        elif not isinstance(value, (type, types.ModuleType)) and not is_library(type(value)):
            yield from getattr(value, "__dict__", {}).values()

    def _run_by(self, value: Any) -> Iterator[Any]:
        """The functions of a value's class that run; others wait until they are called."""
        if isinstance(value, (type, types.ModuleType)):
            return
        for cls in type(value).__mro__:
            if is_library(cls):
                continue
            for name, function in vars(cls).items():
                if not isinstance(function, types.FunctionType):
                    continue
                if name in ("construct", "__call__", "forward") or name in self._names:
                    self._found |= self._reads(function, value)
                    yield from self._behind(function)
                else:
                    self._methods.setdefault(name, []).append((function, value))

    def _called(self) -> Iterator[Any]:
        """The methods whose names have come up meanwhile."""
        for name in self._names & set(self._methods):
            for function, owner in self._methods.pop(name):
                self._found |= self._reads(function, owner)
                yield from self._behind(function)

    def _reads(self, function: types.FunctionType, owner: Any) -> bool:
        """Whether a function's code reads what may be a layer's weight."""
        key = (function.__code__, owner is not None)
        if key not in self._chains:
            self._chains[key] = list(chains(*key))
        for chain in self._chains[key]:
            self._names.update(chain[1:])
            if chain[-1] in _LISTS or chain[0] == "getattr":
                return True
            if chain[-1] not in self._read or len(chain) < 2:
                continue
            if chain[0] != "self":
                return True
            holder = owner
            for name in chain[1:-1]:
                holder = getattr(holder, name, None) if name else None
            if holder is owner and id(owner) not in self._layers:
                continue  # its own parameter
            value = None if holder is None else getattr(holder, chain[-1], None)
            if holder is None or isinstance(value, Parameter):
                return True
        return False

    def _behind(self, function: types.FunctionType) -> Iterator[Any]:
        """The globals, enclosed values and defaults that a function's code names."""
        if is_library(function):
            return
        for cell in function.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # not set yet
                continue
        yield from function.__defaults__ or ()
        yield from (function.__kwdefaults__ or {}).values()
        for code in _with_inner(function.__code__):
            for name in code.co_names:
                value = function.__globals__.get(name)
                if isinstance(value, types.ModuleType):
                    if not is_library(value):
                        yield from (vars(value).get(inner) for inner in code.co_names)
                elif not isinstance(value, type):
                    yield value


def is_library(value: Any) -> bool:
    """Whether a class or a module is of MindSpore, NumPy or Python: no training code."""
    name = str(getattr(value, "__module__", None) or getattr(value, "__name__", ""))
    return name.partition(".")[0] in ("mindspore", "mindspore_thor", "numpy", "builtins", "scipy")


def _with_inner(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _with_inner(constant)


def suspicious(
    net: nn.Cell, loss_fn: Any, weights: Iterable[Parameter], layers: Iterable[nn.Cell]
) -> bool:
    """Whether it is worth while to look closely for uses of weights outside of their layers.

    Args:
        net: the network.
        loss_fn: (output, label) -> mean loss, or None.
        weights: the parameters that are trained in the layers.
        layers: the layers.
    """
    return _Search(weights, layers).suspicious(net, loss_fn)
