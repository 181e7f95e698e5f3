"""What learning-rate and damping schedules share: the count of finished steps, and checks."""

from __future__ import annotations

from typing import Any

from mindspore import Tensor, ops
from mindspore import dtype as mstype
from mindspore.nn.learning_rate_schedule import LearningRateSchedule

from mindspore_thor.errors import UserError, quoted
from mindspore_thor.optim.checks import MAX_STEPS, float32_note, number_or_none

MAX_EPOCHS = 1_000_000
"""Longest training, and latest end of a schedule."""


def number(
    owner: str,
    name: str,
    value: Any,
    *,
    low: float,
    inclusive: bool = False,
    most: float | None = None,
) -> float:
    """Return ``value`` as a float, or raise if it is not a number above ``low``, up to ``most``."""
    found = number_or_none(value)
    large = found is not None and most is not None and found > most
    if found is not None and not large and (found >= low if inclusive else found > low):
        return found
    relation = "at least" if inclusive else "greater than"
    limit = f" and at most {most:.0f}" if large else float32_note(value)
    raise UserError(f"{owner}: {name} is {quoted(value)}; give a number {relation} {low:g}{limit}")


def epochs_of(owner: str, name: str, value: Any, *, inclusive: bool = False) -> float:
    """Return ``value`` as a number of epochs, or raise."""
    return number(owner, name, value, low=0.0, inclusive=inclusive, most=MAX_EPOCHS)


def _steps_per_epoch(owner: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_STEPS:
        return value
    raise UserError(
        f"{owner}: steps_per_epoch is {quoted(value)}; give a whole number of at least 1"
    )


class EpochSchedule(LearningRateSchedule):
    """Common part of the schedules: counts the finished steps, this one included.

    Args:
        steps_per_epoch: Updates per epoch, at least 1.

    Raises:
        UserError: If ``steps_per_epoch`` is not a positive whole number.
    """

    def __init__(self, steps_per_epoch: int) -> None:
        super().__init__()
        self.steps_per_epoch = _steps_per_epoch(type(self).__name__, steps_per_epoch)

    def finished(self, global_step: Tensor) -> Tensor:
        """Return ``step + 1`` as float32: the epoch ``e`` times ``steps_per_epoch``."""
        return ops.cast(global_step, mstype.float32) + 1.0
