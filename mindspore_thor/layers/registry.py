"""The layer types that are known: those of ``layers/types``, and what a user has added."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

from mindspore import nn

from mindspore_thor.errors import UserError
from mindspore_thor.layers import types
from mindspore_thor.layers.layer_type import Form, LayerType


def _found() -> Iterator[LayerType]:
    for module in pkgutil.iter_modules(types.__path__):
        for value in vars(importlib.import_module(f"{types.__name__}.{module.name}")).values():
            if isinstance(value, LayerType):
                yield value


_TYPES: dict[type, LayerType] = {entry.cell: entry for entry in _found()}


def register_layer_type(entry: LayerType) -> LayerType:
    """Make a layer type known to all optimizers that are made from now on.

    Args:
        entry: what is to be known of it. A class that is known already gets this one instead.

    Returns:
        ``entry``.

    Raises:
        UserError: for an entry that no layer could be treated by.
    """
    if not isinstance(entry, LayerType):
        raise UserError(f"{type(entry).__name__} is no LayerType: register LayerType(cell=...)")
    if not inspect.isclass(entry.cell) or not issubclass(entry.cell, nn.Cell):
        raise UserError("the cell of a LayerType must be a subclass of nn.Cell")
    name = entry.cell.__name__
    if entry.hooked and (entry.rows is None or not entry.operator):
        raise UserError(f"layer type {name}: a {entry.form.value} type needs rows and operator")
    if entry.form is Form.ELEMENTWISE and not entry.operator:
        raise UserError(f"layer type {name}: an elementwise type needs an operator")
    if entry.captured is not None and not issubclass(entry.captured, entry.cell):
        raise UserError(f"layer type {name}: captured must be a subclass of {name}")
    _TYPES[entry.cell] = entry
    return entry


def layer_type_of(cell: nn.Cell) -> LayerType | None:
    """The entry of a layer's class, or of the nearest class that it inherits from."""
    return next((_TYPES[cls] for cls in type(cell).__mro__ if cls in _TYPES), None)


def weight_names() -> frozenset[str]:
    """The attributes that hold the weights of all known types."""
    return frozenset(entry.weight for entry in _TYPES.values() if entry.form is not Form.PLAIN)


def bias_names() -> frozenset[str]:
    """The attributes that hold their biases."""
    return frozenset(entry.bias for entry in _TYPES.values() if entry.bias)
