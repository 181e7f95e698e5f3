"""Optimizers: one row per method in the registry, one factory for all."""

from __future__ import annotations

import inspect
from typing import Any, Callable

from mindspore import nn

from mindspore_thor.errors import UserError
from mindspore_thor.optim.base import SecondOrder
from mindspore_thor.optim.ekfac import EKFAC
from mindspore_thor.optim.eva import Eva
from mindspore_thor.optim.first_order import adamw, sgd
from mindspore_thor.optim.fngd import FNGD
from mindspore_thor.optim.keywords import check_keywords
from mindspore_thor.optim.kfac import KFAC
from mindspore_thor.optim.lngd import LNGD
from mindspore_thor.optim.shampoo import Shampoo
from mindspore_thor.optim.thor import THOR
from mindspore_thor.optim.tkfac import TKFAC

METHODS: dict[str, Callable[..., nn.Optimizer]] = {
    "sgd": sgd,
    "adamw": adamw,
    "thor": THOR,
    "kfac": KFAC,
    "ekfac": EKFAC,
    "tkfac": TKFAC,
    "eva": Eva,
    "shampoo": Shampoo,
    "fngd": FNGD,
    "lngd": LNGD,
}

# Arguments that are objects of the running program, not settings a configuration could hold.
_NOT_OPTIONS = ("net", "learning_rate", "params", "decay_filter")


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


__all__ = [
    "EKFAC",
    "FNGD",
    "KFAC",
    "LNGD",
    "METHODS",
    "THOR",
    "TKFAC",
    "Eva",
    "SecondOrder",
    "Shampoo",
    "create_optimizer",
    "optimizer_options",
]
