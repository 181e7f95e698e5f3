"""A loss scale that finds its own size while a net trains in float16."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mindspore import Tensor, nn, ops

from mindspore_thor.curvature.state import state
from mindspore_thor.errors import UserError
from mindspore_thor.optim.checks import MAX_LOSS_SCALE, check_count, check_number


@dataclass(frozen=True)
class DynamicLossScale:
    """The loss is multiplied by a scale that grows until gradients overflow.

    Micikevicius et al., "Mixed Precision Training", ICLR 2018; the numbers are MindSpore's habit.

    A step whose gradients are not finite changes no weight and divides the scale by ``factor``, to
    not below 1; ``window`` good steps in a row multiply it by that, to not above 2^64. Gradients
    and statistics are divided by the scale of their step; where it is a power of two, which
    rounds nothing, it has no part in what is learned.

    Args:
        initial: the first scale, at least 1.
        factor: above 1.
        window: good steps.

    Raises:
        UserError: for a number outside of its range.
    """

    initial: float = 2.0**16
    factor: float = 2.0
    window: int = 2000

    def __post_init__(self) -> None:
        if not 1.0 <= check_number("initial", self.initial, 0.0) <= MAX_LOSS_SCALE:
            raise UserError(
                f"initial={self.initial:g}: give a loss scale between 1 and {MAX_LOSS_SCALE:g}"
            )
        if not 1.0 < check_number("factor", self.factor, 0.0) <= MAX_LOSS_SCALE:
            raise UserError(f"factor={self.factor:g}: give a number above 1, such as 2")
        check_count("window", self.window)


class LossScale(nn.Cell):
    """The state of a :class:`DynamicLossScale`.

    Attributes:
        scale: float32 scalar, what the loss is multiplied by.
        inverse: 1 / scale.
        good_steps: int32 scalar, since the scale changed or a step was not finite.
    """

    def __init__(self, settings: DynamicLossScale) -> None:
        super().__init__(auto_prefix=False)
        self.factor = float(settings.factor)
        self.window = settings.window
        first = np.float32(settings.initial)
        self.scale = state(np.asarray(first), "loss_scale")
        self.inverse = state(np.asarray(1 / first, np.float32), "inverse_loss_scale")
        self.good_steps = state(np.zeros((), np.int32), "loss_scale_good_steps")

    def grow(self) -> bool:
        """Count a good step."""
        steps = self.good_steps + 1
        full = steps >= self.window
        larger = ops.minimum(self.scale * self.factor, MAX_LOSS_SCALE)
        self._store(ops.where(full, larger, self.scale))
        ops.assign(self.good_steps, ops.where(full, ops.zeros_like(steps), steps))
        return True  # see GroupCurvature.collect

    def shrink(self) -> bool:
        """Note a step that was not finite."""
        self._store(ops.maximum(self.scale / self.factor, 1.0))
        ops.assign(self.good_steps, ops.zeros_like(self.good_steps))
        return True

    def _store(self, scale: Tensor) -> bool:
        ops.assign(self.scale, scale)
        ops.assign(self.inverse, 1.0 / scale)
        return True
