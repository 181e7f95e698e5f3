"""Update intervals that may grow during training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, Union

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindspore_thor.errors import UserError, quoted
from mindspore_thor.graph.operators import CAST, GREATER_EQUAL, MUL
from mindspore_thor.linalg.sums import SUM
from mindspore_thor.optim.checks import MAX_STEPS, is_whole

IntervalLike = Union[int, Callable[[int], int], Sequence[Sequence[int]]]

INTERVALS = ("factor_interval", "inverse_interval")
"""The keywords that take one."""

HORIZON = 1_000_000
"""Steps up to which a step -> interval function is tabulated; its last value holds beyond."""


def _positive(name: str, interval: Any, step: int | None = None) -> int:
    if is_whole(interval) and 1 <= interval <= MAX_STEPS:
        return int(interval)
    where = "" if step is None else f" at step {step}"
    limit = f" and at most {MAX_STEPS}" if is_whole(interval) and interval > 0 else ""
    raise UserError(
        f"{name}={quoted(interval)}{where}: an interval is a whole number of at least 1{limit}"
    )


def milestones(name: str, interval: IntervalLike) -> list[tuple[int, int]]:
    """An interval in its canonical form.

    Args:
        name: the keyword's name, for messages.
        interval: a number of steps; a function step -> interval, called at each refresh; or a list
            of (first step, interval).

    Returns:
        [(first step, interval), ...], starting at step 0, in ascending order.

    Raises:
        UserError: for an interval below 1 or above :data:`~mindspore_thor.optim.checks.MAX_STEPS`,
            or milestones that do not ascend from 0.
    """
    if callable(interval):
        table: list[tuple[int, int]] = []
        step = 0
        while step < HORIZON:
            value = _positive(name, interval(step), step)
            if not table or table[-1][1] != value:
                table.append((step, value))
            step += value
        return table
    if isinstance(interval, (list, tuple)):
        pairs = [tuple(pair) if isinstance(pair, (list, tuple)) else (pair,) for pair in interval]
        if not pairs or any(len(pair) != 2 for pair in pairs):
            raise UserError(
                f"{name}={quoted(interval)}: milestones are pairs [first step, interval]"
            )
        starts = [pair[0] for pair in pairs]
        ascending = all(map(is_whole, starts)) and all(a < b for a, b in zip(starts, starts[1:]))
        if not ascending or starts[0] != 0 or starts[-1] > MAX_STEPS:
            raise UserError(
                f"{name}={quoted(interval)}: the first steps must be whole numbers that ascend "
                f"from 0, to at most {MAX_STEPS}"
            )
        return [(int(start), _positive(name, value, int(start))) for start, value in pairs]
    return [(0, _positive(name, interval))]


class Interval(nn.Cell):
    """The interval that holds at a step, inside a compiled graph.

    Args:
        name: the keyword's name, for messages.
        interval: see :func:`milestones`.

    Attributes:
        least: the smallest of its values.
    """

    def __init__(self, name: str, interval: IntervalLike) -> None:
        super().__init__()
        table = milestones(name, interval)
        values = np.array([value for _, value in table], np.int32)
        self.least = int(values.min())
        self.starts = Tensor(np.array([start for start, _ in table], np.int32))
        # The interval at a step is the sum of all changes that have begun by then.
        self.changes = Tensor(np.diff(values, prepend=0).astype(np.int32))

    def construct(self, step: Tensor) -> Tensor:
        """int32 scalar step -> int32 scalar interval."""
        begun = CAST(GREATER_EQUAL(step, self.starts), ms.int32)
        return SUM(MUL(begun, self.changes), 0)
