"""Warm-up and decay with the inverse square root of the step, as Transformers are trained."""

from __future__ import annotations

import math
from typing import Any

from mindspore import Tensor, ops

from mindspore_thor.errors import UserError, quoted
from mindspore_thor.optim.checks import MAX_STEPS
from mindspore_thor.optim.schedule_base import EpochSchedule, number

_MOST_FEATURES = 2**17


def _whole(owner: str, name: str, value: Any, most: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most:
        return value
    raise UserError(f"{owner}: {name} is {quoted(value)}; give a whole number from 1 to {most}")


class InverseSquareRoot(EpochSchedule):
    """Linear warm-up to ``peak``, then ``peak * sqrt(warmup_steps / t)`` for the t-th update.

    The schedule of fairseq's ``inverse_sqrt`` with an initial rate of zero.

    Args:
        peak: Value at update ``warmup_steps``.
        warmup_steps: Updates of the warm-up, not epochs: that is how it is published.
        steps_per_epoch: Updates per epoch; unused, kept so that all schedules are built alike.

    Raises:
        UserError: If an argument is out of range.
    """

    def __init__(self, peak: float, warmup_steps: int, steps_per_epoch: int = 1) -> None:
        super().__init__(steps_per_epoch)
        owner = type(self).__name__
        self.peak = number(owner, "peak", peak, low=0.0)
        self.warmup_steps = float(_whole(owner, "warmup_steps", warmup_steps, MAX_STEPS))

    def construct(self, global_step: Tensor) -> Tensor:
        """Return the value at ``global_step`` (int32, () or [1]) as float32 of the same shape."""
        done = self.finished(global_step)
        rising = done / self.warmup_steps
        return self.peak * ops.minimum(rising, ops.rsqrt(rising))


class Noam(InverseSquareRoot):
    """``factor * d_model^-0.5 * min(t^-0.5, t * warmup_steps^-1.5)``, Vaswani et al. 2017, Eq 3.

    Args:
        d_model: Features of the model.
        warmup_steps: Updates of the warm-up.
        factor: Multiplies all of it; 1 in the paper.
        steps_per_epoch: Updates per epoch; unused.

    Raises:
        UserError: If an argument is out of range.
    """

    def __init__(
        self, d_model: int, warmup_steps: int, factor: float = 1.0, steps_per_epoch: int = 1
    ) -> None:
        owner = type(self).__name__
        features = _whole(owner, "d_model", d_model, _MOST_FEATURES)
        steps = _whole(owner, "warmup_steps", warmup_steps, MAX_STEPS)
        scale = number(owner, "factor", factor, low=0.0)
        super().__init__(scale / math.sqrt(features * steps), steps, steps_per_epoch)
