"""The methods: a file that is named after a method defines it.

``thor.py`` has the class ``THOR`` (a :class:`~mindspore_thor.optim.base.SecondOrder`), ``sgd.py``
the function ``sgd``. A new method is a new file: recipes, ``create_optimizer`` and the studies find
it by its name. Files with other names hold what several methods share, or a part of a method that
has two (``fngd_gram.py``).
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any, Callable

from mindspore import nn

from mindspore_thor.errors import UserError
from mindspore_thor.optim.base import SecondOrder
from mindspore_thor.optim.keywords import check_keywords

# Arguments that are objects of the running program, not settings a configuration could hold.
_NOT_OPTIONS = ("net", "learning_rate", "params", "decay_filter")


def _defined_by(name: str) -> Callable[..., nn.Optimizer] | None:
    module = vars(importlib.import_module(f"{__name__}.{name}"))
    if inspect.isfunction(module.get(name)):
        return module[name]
    for key, value in module.items():
        if key.lower() == name and inspect.isclass(value) and issubclass(value, SecondOrder):
            return value
    return None


def _find() -> dict[str, Callable[..., nn.Optimizer]]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    found = {name: _defined_by(name) for name in names}
    return {name: method for name, method in found.items() if method is not None}


METHODS: dict[str, Callable[..., nn.Optimizer]] = _find()
"""Name -> class or function."""

CLASSES: dict[str, type[SecondOrder]] = {
    method.__name__: method
    for method in METHODS.values()
    if inspect.isclass(method) and issubclass(method, SecondOrder)
}
"""Class name -> class of the second-order methods, which this package also has as attributes."""


def __getattr__(name: str) -> Any:
    if name in CLASSES:
        return CLASSES[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _factory(name: str) -> Callable[..., nn.Optimizer]:
    if name not in METHODS:
        raise UserError(f"unknown optimizer {name!r}: use one of {', '.join(METHODS)}")
    return METHODS[name]


def optimizer_options(name: str) -> dict[str, inspect.Parameter]:
    """The keywords that a configuration may set for a method.

    Args:
        name: a key of :data:`METHODS`.

    Returns:
        Keyword name -> its parameter, with the default.

    Raises:
        UserError: for an unknown method.
    """
    factory = _factory(name)
    found = dict(inspect.signature(factory).parameters)
    if inspect.isclass(factory) and issubclass(factory, SecondOrder):
        found = factory.keywords()
    return {k: v for k, v in found.items() if k not in _NOT_OPTIONS}


def create_optimizer(name: str, net: nn.Cell, learning_rate: Any, **options: Any) -> nn.Optimizer:
    """Build a method by its name.

    Args:
        name: a key of :data:`METHODS`.
        net: the network to train.
        learning_rate: number, list, or MindSpore schedule.
        **options: keywords of the method.

    Returns:
        The optimizer.

    Raises:
        UserError: for an unknown method or keyword, or a value out of range.
    """
    check_keywords(name, options, optimizer_options(name))
    return _factory(name)(net, learning_rate, **options)
