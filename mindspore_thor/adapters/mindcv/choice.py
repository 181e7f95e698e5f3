"""Which method an ``opt`` of mindcv's stands for, its options, and what it cannot be used with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindspore_thor.errors import UserError, quoted
from mindspore_thor.methods import METHODS, optimizer_options
from mindspore_thor.optim.keywords import check_keywords
from mindspore_thor.optim.schedules import create_schedule
from mindspore_thor.run.build import as_tuples
from mindspore_thor.run.yaml_files import parse_value

OPTIONS = "opt_options"
"""The key of mindcv's YAML file that holds a method's options."""

COMPILE_CACHE = "compile_cache"
"""A key among them that is ``TrainStep``'s."""

PREFIX = "mindspore_thor."
"""Before a method's name, where mindcv has an optimizer of the same name."""

_MINDCVS = (
    *("sgd", "nesterov", "momentum", "adam", "adamw", "lion", "nadam", "adan", "rmsprop"),
    *("adagrad", "lamb"),
)
_KEYS_OF_MINDCV = ("weight_decay", "loss_scale")
_SCHEDULED = ("damping", "rest_learning_rate")


def names() -> list[str]:
    """Every ``opt`` that is a method of this package."""
    return [name if name not in _MINDCVS else PREFIX + name for name in METHODS]


def method_of(opt: str) -> str | None:
    """The method that an ``opt`` stands for; None where it is an optimizer of mindcv's.

    Args:
        opt: As in mindcv's YAML file, in any case.

    Raises:
        UserError: If it has :data:`PREFIX`, but is no method.
    """
    name = str(opt).lower()
    if name.startswith(PREFIX):
        name = name[len(PREFIX) :]
        if name not in METHODS:
            raise UserError(f"opt {quoted(opt)}: there is no such method: {', '.join(names())}")
        return name
    return name if name in METHODS and name not in _MINDCVS else None


def checked_options(method: str, given: Any) -> dict[str, Any]:
    """Check a method's options before any data is read.

    Args:
        method: A key of ``METHODS``.
        given: The value of :data:`OPTIONS`, from PyYAML, which reads ``1e-3`` as text; or None.

    Returns:
        The options, :data:`COMPILE_CACHE` among them; a damping may still be
        ``{schedule: ...}``.

    Raises:
        UserError: For what the method does not have, and what mindcv has keys for.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise UserError(f"{OPTIONS} is {quoted(given)}; give {{name: value, ...}}")
    options = {str(key): as_tuples(_scalars(value)) for key, value in given.items()}
    for key in _KEYS_OF_MINDCV:
        if key in options:
            raise UserError(f"{OPTIONS} has {key}: give mindcv's own key {key} in its place")
    of_method = {key: value for key, value in options.items() if key != COMPILE_CACHE}
    check_keywords(method, of_method, optimizer_options(method))
    cache = options.get(COMPILE_CACHE)
    if not (isinstance(cache, (bool, str)) or cache is None) or cache == "":
        raise UserError(
            f"{OPTIONS}: {COMPILE_CACHE} is {quoted(cache)}; give true, false or a folder"
        )
    return options


def _scalars(value: Any) -> Any:
    """Numbers that YAML 1.1 takes for text."""
    if isinstance(value, str):
        return parse_value(value, OPTIONS)
    if isinstance(value, Mapping):
        return {str(key): _scalars(item) for key, item in value.items()}
    return [_scalars(item) for item in value] if isinstance(value, (list, tuple)) else value


def with_schedules(
    options: Mapping[str, Any], steps_per_epoch: int | None, epochs: int | None
) -> dict[str, Any]:
    """Make schedules of dampings and rates that are given as ``{schedule: NAME, ...}``.

    Args:
        options: See :func:`checked_options`.
        steps_per_epoch: Updates per epoch; None where nobody said so.
        epochs: Of the training, likewise.

    Raises:
        UserError: For a schedule that there is not, or that has other arguments.
    """
    found = dict(options)
    for key in _SCHEDULED:
        value = found.get(key)
        if not isinstance(value, dict):
            continue
        if steps_per_epoch is None or epochs is None:
            raise UserError(f"{key} is a schedule in epochs: give a cell or a number in a script")
        arguments = dict(value)
        name = arguments.pop("schedule", None)
        if name is None:
            raise UserError(f"{OPTIONS}: {key} is {quoted(value)}; give {{schedule: NAME, ...}}")
        found[key] = create_schedule(str(name), steps_per_epoch, epochs, **arguments)
    return found


def refuse(method: str, settings: Mapping[str, Any]) -> None:
    """Refuse what mindcv's trainer would do to gradients and weights behind a method's back.

    Args:
        method: A key of ``METHODS``.
        settings: mindcv's keys, as far as they are known.

    Raises:
        UserError: For the first of them that is set.
    """
    if settings.get("ema"):
        raise UserError(
            f"ema with opt {method}: averaged weights are not supported; set ema: False"
        )
    if settings.get("clip_grad"):
        instead = (
            f"{OPTIONS}: {{clip_norm: {settings.get('clip_value', 15.0):g}}}, which limits the "
            "direction"
            if "clip_norm" in optimizer_options(method)
            else "no clipping"
        )
        raise UserError(
            f"clip_grad with opt {method}: it would clip gradients before they are preconditioned, "
            f"and statistics with them; set clip_grad: False and use {instead}"
        )
    if settings.get("use_nesterov"):
        raise UserError(
            f"use_nesterov with opt {method}: set it to False; a method that has it takes "
            f"{OPTIONS}: {{nesterov: true}}"
        )
