"""Argument checks: one line that names the keyword and says what to give instead."""

from __future__ import annotations

from typing import Any

import numpy as np
from mindspore import Tensor
from mindspore.nn.learning_rate_schedule import LearningRateSchedule

from mindspore_thor.errors import UserError


def check_number(name: str, value: Any, low: float, *, open_low: bool = False) -> float:
    """``value`` as a float of at least ``low`` (or above it), else a UserError that names it."""
    good = isinstance(value, (int, float, np.floating)) and not isinstance(value, bool)
    if good and np.isfinite(value) and (value > low if open_low else value >= low):
        return float(value)
    raise UserError(
        f"{name}={value!r}: give a number {'above' if open_low else 'of at least'} {low:g}"
    )


def is_whole(value: Any) -> bool:
    """Whether ``value`` is a whole number, not a truth value."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_count(name: str, value: Any, low: int = 1) -> int:
    """``value`` as a whole number of at least ``low``, else a UserError that names it."""
    if is_whole(value) and value >= low:
        return int(value)
    raise UserError(f"{name}={value!r}: give a whole number of at least {low}")


def check_decay(factor_decay: Any) -> float:
    """A moving average's weight of the old value: a number in [0, 1), else a UserError."""
    if check_number("factor_decay", factor_decay, 0.0) >= 1:
        raise UserError(f"factor_decay={factor_decay}: give a number in [0, 1)")
    return float(factor_decay)


def check_learning_rate(value: Any) -> Any:
    """``value`` if MindSpore can use it as a learning rate, else a UserError."""
    if isinstance(value, (LearningRateSchedule, Tensor)):
        return value
    rates = value if isinstance(value, (list, tuple, np.ndarray)) else [value]
    if len(rates) == 0:
        raise UserError("learning_rate is an empty list: give one rate per step")
    for rate in rates:
        check_number("learning_rate", rate, 0.0)
    return value


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """``value`` if it is one of ``choices``, else a UserError that lists them."""
    if value not in choices:
        raise UserError(f"{name}={value!r}: use one of {', '.join(choices)}")
    return str(value)
