"""Argument checks: one line that names the keyword and says what to give instead."""

from __future__ import annotations

from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, nn
from mindspore.nn.learning_rate_schedule import LearningRateSchedule

from mindspore_thor.errors import UserError, quoted

FLOAT32 = (1.1754944e-38, 3.4028234e38)
"""The smallest and the largest positive number that float32 holds in full, as kernels compute."""

MAX_STEPS = 2**30
"""Steps are counted in int32: a step and an interval after it, both up to this, can be added."""

MAX_COUNT = 2**31 - 1

MAX_LOSS_SCALE = 2.0**64


def number_or_none(value: Any) -> float | None:
    """``value`` as a float where it is a number that float32 holds, else None."""
    if not isinstance(value, (int, float, np.floating)) or isinstance(value, bool):
        return None
    if isinstance(value, int) and abs(value) > MAX_COUNT**4:
        return None  # float() refuses what is larger still
    value = float(value)
    return value if value == 0 or FLOAT32[0] <= abs(value) <= FLOAT32[1] else None


def float32_note(value: Any) -> str:
    """What a message adds where float32 would make zero or infinity of a number."""
    real = isinstance(value, (float, np.floating)) and np.isfinite(value) and value != 0
    lost = real and number_or_none(value) is None
    return f" (float32 holds {FLOAT32[0]:.2g} to {FLOAT32[1]:.2g})" if lost else ""


def check_number(name: str, value: Any, low: float, *, open_low: bool = False) -> float:
    """``value`` as a float of at least ``low`` (or above it), else a UserError that names it."""
    number = number_or_none(value)
    if number is not None and (number > low if open_low else number >= low):
        return number
    raise UserError(
        f"{name}={quoted(value)}: give a number {'above' if open_low else 'of at least'} {low:g}"
        + float32_note(value)
    )


def is_whole(value: Any) -> bool:
    """Whether ``value`` is a whole number, not a truth value."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_count(name: str, value: Any, low: int = 1, most: int = MAX_COUNT) -> int:
    """``value`` as a whole number from ``low`` to ``most``, else a UserError that names it."""
    if is_whole(value) and low <= value <= most:
        return int(value)
    limit = f" and at most {most}" if is_whole(value) and value > most else ""
    raise UserError(f"{name}={quoted(value)}: give a whole number of at least {low}{limit}")


def check_share_of_old(name: str, value: Any) -> float:
    """``value`` as a number in [0, 1), the weight of what was, else a UserError that names it."""
    number = number_or_none(value)
    if number is None or not 0 <= number < 1:
        raise UserError(f"{name}={quoted(value)}: give a number in [0, 1){float32_note(value)}")
    return number


def check_loss_scale(value: Any) -> float:
    """``value`` as a number above 0 whose inverse float32 holds as well, else a UserError."""
    number = check_number("loss_scale", value, 0.0, open_low=True)
    if number > MAX_LOSS_SCALE:
        raise UserError(f"loss_scale={number:g}: give a number of at most {MAX_LOSS_SCALE:g}")
    return number


def check_decay(factor_decay: Any) -> float:
    """A moving average's weight of the old value: a number in [0, 1), else a UserError."""
    return check_share_of_old("factor_decay", factor_decay)


def rates_given(optimizer: nn.Optimizer) -> int | None:
    """For how many steps an optimizer has rates; None where that is no list.

    Args:
        optimizer: any; MindSpore makes a table of a list.
    """
    rates: Any = getattr(optimizer, "learning_rate", None)
    tables = rates if isinstance(rates, nn.CellList) else (rates,)
    found = [getattr(table, "learning_rate", None) for table in tables]
    counts = [rate.size for rate in found if isinstance(rate, Parameter) and rate.ndim == 1]
    return min(counts, default=None)


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
    if not isinstance(value, str) or value not in choices:
        raise UserError(f"{name}={quoted(value)}: use one of {', '.join(choices)}")
    return str(value)
