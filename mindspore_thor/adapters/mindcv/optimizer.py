"""mindcv's arguments of ``create_optimizer`` -> a method of this package."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mindspore as ms
from mindspore import Parameter, nn

from mindspore_thor.errors import UserError, quoted
from mindspore_thor.methods import CLASSES, METHODS, optimizer_options

_NORM_AND_BIAS = ("beta", "gamma", "bias")
_FILTERS = ("disable", "auto", "norm_and_bias")


def decay_filter(net: nn.Cell, choice: str) -> Callable[[Parameter], bool]:
    """Which parameters decay: the same ones as with mindcv's optimizers.

    Args:
        net: The network; its ``no_weight_decay()`` counts where it has one.
        choice: mindcv's ``weight_decay_filter``.

    Raises:
        UserError: For another choice.
    """
    if choice not in _FILTERS:
        raise UserError(
            f"weight_decay_filter is {quoted(choice)}; give one of {', '.join(_FILTERS)}"
        )
    if choice == "disable":
        return lambda parameter: True
    words = _NORM_AND_BIAS if choice == "norm_and_bias" else _NORM_AND_BIAS[:2]
    spared = set()
    if choice == "norm_and_bias" and hasattr(net, "no_weight_decay"):
        spared = set(net.no_weight_decay())
    return lambda p: p.name not in spared and not any(word in p.name for word in words)


def _moved_by(
    net: nn.Cell, method: str, rates: Any, weight_decay: float, choice: str, layer_decay: Any
) -> dict[str, Any]:
    """The keywords that say which parameters decay, and how fast they are."""
    if METHODS[method] not in CLASSES.values():
        if layer_decay is not None:
            raise UserError(f"layer_decay with opt {method}: no such groups there; leave it out")
        return {"weight_decay": weight_decay}
    decays = decay_filter(net, choice)
    if layer_decay is None or choice == "auto":
        return {"weight_decay": weight_decay, "decay_filter": decays}
    factory = importlib.import_module("mindcv.optim.optim_factory")
    spared = net.no_weight_decay() if hasattr(net, "no_weight_decay") else {}
    groups = factory.param_groups_layer_decay(
        net,
        lr=rates,
        weight_decay=weight_decay,
        layer_decay=layer_decay,
        no_weight_decay_list=spared,
    )
    return {"params": groups, "weight_decay": 0.0}


def load_state(optimizer: nn.Optimizer, stored: Mapping[str, Parameter], path: str) -> None:
    """Continue with the state in mindcv's ``optim_<model>.ckpt``, but for a schedule's rates.

    Args:
        optimizer: The optimizer.
        stored: What the file holds.
        path: The file, for messages.

    Raises:
        UserError: If it is another method's, lacks a part, or has one of another shape.
    """
    schedule = optimizer.learning_rate
    own = {p.name for p in schedule.get_parameters()} if isinstance(schedule, nn.Cell) else set()
    stored = {name: value for name, value in stored.items() if name not in own}
    for parameter in optimizer.get_parameters():
        found = stored.get(parameter.name, parameter)
        if tuple(found.shape) != tuple(parameter.shape):
            raise UserError(
                f"{path}: {parameter.name} has the shape {tuple(found.shape)}, here it is "
                f"{tuple(parameter.shape)}; resume with the same options"
            )
    missing, _ = ms.load_param_into_net(optimizer, stored)
    missing = [name for name in missing if name not in own]
    if missing:
        raise UserError(
            f"{path} has no {missing[0]} ({len(missing)} are missing): it is not the state of "
            f"{type(optimizer).__name__} with these options; resume_opt: False begins anew"
        )


def _continued(rates: Any, stored: Mapping[str, Parameter]) -> Any:
    """The rates of a schedule, its last one for as many updates more as were made before.

    mindcv trains ``epoch_size`` epochs more, whose numbers go on.
    """
    if not isinstance(rates, list):
        return rates
    return rates + rates[-1:] * int(stored["global_step"].asnumpy().reshape(-1)[0])


def build(
    net: Any,
    method: str,
    rates: float | Sequence[float],
    options: Mapping[str, Any],
    *,
    weight_decay: float,
    momentum: float,
    weight_decay_filter: str,
    layer_decay: float | None,
    loss_scale: float,
    steps_per_epoch: int | None,
    checkpoint_path: str,
) -> nn.Optimizer:
    """Build a method for a network of mindcv's.

    Args:
        net: The network.
        method: A key of ``METHODS``.
        rates: mindcv's ``lr``: a number, or one for every update.
        options: The method's own; its momentum wins over mindcv's.
        weight_decay: mindcv's.
        momentum: mindcv's, for methods that have one.
        weight_decay_filter: mindcv's.
        layer_decay: mindcv's, for second-order methods.
        loss_scale: A fixed one.
        steps_per_epoch: Updates per epoch, for methods that ask (FNGD); None if not known.
        checkpoint_path: See :func:`load_state`; empty, or a file that is not there, for none.

    Returns:
        The optimizer.

    Raises:
        UserError: If something does not fit.
    """
    if not isinstance(net, nn.Cell):
        raise UserError(
            f"opt {method} was given a {type(net).__name__}: it needs the network, "
            "create_optimizer(network, ...)"
        )
    known = optimizer_options(method)
    found = {"momentum": momentum, "steps_per_epoch": steps_per_epoch}
    found = {key: value for key, value in found.items() if key in known and value is not None}
    stored = ms.load_checkpoint(checkpoint_path) if os.path.exists(checkpoint_path) else {}
    if "global_step" in stored:
        rates = _continued(rates, stored)
    moved = _moved_by(net, method, rates, weight_decay, weight_decay_filter, layer_decay)
    keywords = {**found, **options, "loss_scale": loss_scale}
    optimizer = METHODS[method](net, rates, **keywords, **moved)
    if stored:
        load_state(optimizer, stored, checkpoint_path)
    return optimizer
