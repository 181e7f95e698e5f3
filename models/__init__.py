"""The models by name: plain MindSpore networks, without anything second-order in them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from typing import Any, Callable

from mindspore import nn

from mindspore_thor.errors import UserError
from models.autoencoder import autoencoder
from models.mlp import mlp
from models.resnet import (
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet50,
    resnet56,
    resnet101,
)
from models.vgg import vgg11

_FACTORIES: dict[str, Callable[..., nn.Cell]] = {
    factory.__name__: factory
    for factory in (
        autoencoder,
        mlp,
        resnet18,
        resnet20,
        resnet32,
        resnet34,
        resnet50,
        resnet56,
        resnet101,
        vgg11,
    )
}

__all__ = ["available_models", "create_model", "model_options"]


def available_models() -> list[str]:
    """Return the names that ``create_model`` knows, sorted."""
    return sorted(_FACTORIES)


def model_options(name: str) -> dict[str, inspect.Parameter]:
    """Return the options of a model with their defaults.

    Args:
        name: One of ``available_models()``.

    Raises:
        UserError: The name is unknown.
    """
    if name not in _FACTORIES:
        raise UserError(_unknown("model", name, available_models()))
    return dict(inspect.signature(_FACTORIES[name]).parameters)


def create_model(name: str, **options: Any) -> nn.Cell:
    """Build a freshly initialised model.

    Call ``mindspore.set_seed`` before for repeatable weights.

    Args:
        name: One of ``available_models()``.
        **options: The model's own options, for instance ``num_classes`` and ``in_channels``.

    Raises:
        UserError: The name, an option or its value is not valid; names the nearest valid one.
    """
    known = model_options(name)
    for option in options:
        if option not in known:
            raise UserError(_unknown(f"option of model '{name}'", option, known))
        _check_type(name, known[option], options[option])
    return _FACTORIES[name](**options)


def _check_type(name: str, option: inspect.Parameter, value: Any) -> None:
    """Refuse a value whose type is not that of the option's default."""
    default = option.default
    if isinstance(default, tuple):
        fits = isinstance(value, (list, tuple)) and all(type(item) is int for item in value)
        kind = "a list of whole numbers"
    elif isinstance(default, float):
        fits, kind = type(value) in (int, float), "a number"
    else:
        kinds = {bool: "true or false", int: "a whole number", str: "a word"}
        fits, kind = type(value) is type(default), kinds[type(default)]
    if not fits:
        raise UserError(f"option '{option.name}' of model '{name}' is {value!r}: give {kind}")


def _unknown(kind: str, given: str, known: Iterable[str]) -> str:
    names = list(known)
    nearest = difflib.get_close_matches(given, names, 1, 0.0)
    return f"unknown {kind} '{given}', did you mean '{nearest[0]}'? Known are {', '.join(names)}"
