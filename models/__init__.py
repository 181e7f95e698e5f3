"""The models by name: plain MindSpore networks, without anything second-order in them."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Callable

from mindspore import nn

from mindspore_thor.errors import UserError, quoted

from .autoencoder import autoencoder
from .bert import bert, bert_base, bert_large, bert_tiny
from .language import language_model
from .mlp import mlp
from .resnet import (
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet50,
    resnet56,
    resnet101,
)
from .transformer import (
    transformer,
    transformer_base,
    transformer_big,
    transformer_fngd,
    transformer_small,
    transformer_tiny,
)
from .vgg import vgg11

_FACTORIES: dict[str, Callable[..., nn.Cell]] = {
    factory.__name__: factory
    for factory in (
        autoencoder,
        bert,
        bert_base,
        bert_large,
        bert_tiny,
        language_model,
        mlp,
        resnet18,
        resnet20,
        resnet32,
        resnet34,
        resnet50,
        resnet56,
        resnet101,
        transformer,
        transformer_base,
        transformer_big,
        transformer_fngd,
        transformer_small,
        transformer_tiny,
        vgg11,
    )
}

MOST_FEATURES = 2**17
"""Most features of a layer, channels or classes."""

_MOST_LAYERS = 1000
_MOST_WIDTH = 16
_MOST_PIXELS = 4096  # as data.image_size

__all__ = ["available_models", "create_model", "model_options", "shipped_recipe"]


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


def shipped_recipe(path: Path) -> Path:
    """Return the recipe that is meant, from wherever a command is called.

    Args:
        path: A file; else ``models/<family>/<name>.yaml``, or only a shipped recipe's name.

    Returns:
        The shipped recipe's path; the same path where it is no such recipe's.

    Raises:
        UserError: for a name without an ending that is nearly a shipped recipe's.
    """
    if os.path.exists(path):
        return path
    here = Path(__file__).parent
    if path.parts[:1] == ("models",) and here.joinpath(*path.parts[1:-1]).is_dir():
        return here.joinpath(*path.parts[1:])
    shipped = {recipe.stem: recipe for recipe in here.glob("*/*.yaml")}
    if len(path.parts) != 1:
        return path
    name = path.name[: -len(".yaml")] if path.suffix == ".yaml" else path.name
    near = difflib.get_close_matches(name[:100], shipped, 1, 0.8)
    if name not in shipped and near and not path.suffix:
        raise UserError(f"no such recipe: {quoted(name)}; did you mean {near[0]!r}?")
    return shipped.get(name, path)


def _check_type(name: str, option: inspect.Parameter, value: Any) -> None:
    """Refuse a value that has not the type of the option's default, or is out of all proportion.

    What is too small for a model, the model says itself.
    """
    default = option.default
    if isinstance(default, tuple):
        fits = isinstance(value, (list, tuple)) and len(value) <= _MOST_LAYERS
        fits = fits and all(type(item) is int and item <= MOST_FEATURES for item in value)
        kind = f"a list of whole numbers up to {MOST_FEATURES}, at most {_MOST_LAYERS} of them"
    elif isinstance(default, float):
        fits = type(value) in (int, float) and abs(value) <= _MOST_WIDTH
        kind = f"a number of at most {_MOST_WIDTH}"
    elif type(default) is int:
        pixels = option.name == "image_size"
        most = _MOST_PIXELS if pixels else MOST_FEATURES
        fits = type(value) is int and value <= most and not (pixels and value < 1)
        kind = f"a whole number up to {most}"
    else:
        kinds = {bool: "true or false", str: "a word"}
        fits, kind = type(value) is type(default), kinds[type(default)]
    if not fits:
        raise UserError(f"option '{option.name}' of model '{name}' is {quoted(value)}: give {kind}")


def _unknown(kind: str, given: str, known: Iterable[str]) -> str:
    names = list(known)
    nearest = difflib.get_close_matches(given, names, 1, 0.0)
    return f"unknown {kind} '{given}', did you mean '{nearest[0]}'? Known are {', '.join(names)}"
