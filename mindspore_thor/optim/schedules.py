"""Learning-rate and damping schedules, in epochs (THOR paper, Eqs 13-15, and the usual others).

Every schedule is a MindSpore ``LearningRateSchedule``: it maps the global step (0 for the first
update) to a scalar. Time is the epoch ``e = (step + 1) / steps_per_epoch``, as in THOR's published
code, so the first update already sees ``e > 0`` and the last one of epoch ``k`` sees exactly
``e = k``. Past its end a schedule stays at its end value.

The arithmetic runs on step counts rather than on epochs: differences of whole float32 numbers are
exact, so that ``1 - e / e_end`` keeps its relative precision close to the end.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

from mindspore import Tensor, ops
from mindspore import dtype as mstype

from mindspore_thor.errors import UserError, quoted
from mindspore_thor.optim.checks import FLOAT32
from mindspore_thor.optim.inverse_sqrt import InverseSquareRoot, Noam
from mindspore_thor.optim.schedule_base import EpochSchedule, epochs_of, number

_EPOCHS_PER_RHO = 10.0


class ConstantSchedule(EpochSchedule):
    """The same value at every step.

    Args:
        value: The value, not negative.
        steps_per_epoch: Updates per epoch; unused, kept so that all schedules are built alike.

    Raises:
        UserError: If an argument is out of range.
    """

    def __init__(self, value: float, steps_per_epoch: int = 1) -> None:
        super().__init__(steps_per_epoch)
        self.value = number(type(self).__name__, "value", value, low=0.0, inclusive=True)

    def construct(self, global_step: Tensor) -> Tensor:
        """Return the value at ``global_step`` (int32, () or [1]) as float32 of the same shape."""
        return ops.zeros_like(self.finished(global_step)) + self.value


class PolynomialDecay(EpochSchedule):
    """Polynomial decay, THOR paper Eq 13: ``initial * (1 - e / end_epoch) ** power``.

    With ``final`` it ends there: ``final + (initial - final) * (1 - e / end_epoch) ** power``.

    Args:
        initial: Value at ``e = 0`` (alpha_t).
        end_epoch: Epoch at which the value reaches its end (e_end).
        power: Exponent (p).
        steps_per_epoch: Updates per epoch.
        final: Value at the end and afterwards.

    Raises:
        UserError: If an argument is out of range.
    """

    def __init__(
        self,
        initial: float,
        end_epoch: float,
        power: float,
        steps_per_epoch: int,
        final: float = 0.0,
    ) -> None:
        super().__init__(steps_per_epoch)
        owner = type(self).__name__
        self.initial = number(owner, "initial", initial, low=0.0)
        self.final = number(owner, "final", final, low=0.0, inclusive=True)
        self.span = self.initial - self.final
        self.power = number(owner, "power", power, low=0.0)
        self.end_steps = epochs_of(owner, "end_epoch", end_epoch) * self.steps_per_epoch

    def construct(self, global_step: Tensor) -> Tensor:
        """Return the value at ``global_step`` (int32, () or [1]) as float32 of the same shape."""
        # Clamped: a negative base with a fractional power would be NaN past the end.
        left = ops.relu(self.end_steps - self.finished(global_step)) / self.end_steps
        return self.final + self.span * ops.pow(left, self.power)


class WarmupPolynomialDecay(EpochSchedule):
    """Linear warm-up, then polynomial decay, THOR paper Eq 14.

    ``e <= e_w``: ``warmup_initial + (peak - warmup_initial) * e / e_w``; afterwards
    ``peak * (1 - (e - e_w) / end_epoch) ** power``. The decay's length ``end_epoch`` counts from
    the end of the warm-up, so zero is reached at ``e_w + end_epoch``.

    Args:
        warmup_initial: Value at ``e = 0`` (alpha_w).
        peak: Value at the end of the warm-up (alpha_t).
        warmup_epochs: Length of the warm-up (e_w).
        end_epoch: Length of the decay in epochs (e_end).
        power: Exponent (p).
        steps_per_epoch: Updates per epoch.

    Raises:
        UserError: If an argument is out of range.
    """

    def __init__(
        self,
        warmup_initial: float,
        peak: float,
        warmup_epochs: float,
        end_epoch: float,
        power: float,
        steps_per_epoch: int,
    ) -> None:
        super().__init__(steps_per_epoch)
        owner = type(self).__name__
        self.warmup_initial = number(
            owner, "warmup_initial", warmup_initial, low=0.0, inclusive=True
        )
        self.peak = number(owner, "peak", peak, low=0.0)
        self.power = number(owner, "power", power, low=0.0)
        warmup = epochs_of(owner, "warmup_epochs", warmup_epochs)
        self.warmup_steps = warmup * self.steps_per_epoch
        self.end_steps = epochs_of(owner, "end_epoch", end_epoch) * self.steps_per_epoch

    def construct(self, global_step: Tensor) -> Tensor:
        """Return the value at ``global_step`` (int32, () or [1]) as float32 of the same shape."""
        done = self.finished(global_step)
        rising = self.warmup_initial + (self.peak - self.warmup_initial) * (
            done / self.warmup_steps
        )
        left = ops.relu(self.warmup_steps + self.end_steps - done) / self.end_steps
        # The unused branch is clamped to the peak as well: where() must not meet an overflow.
        falling = self.peak * ops.pow(ops.minimum(left, ops.ones_like(left)), self.power)
        return ops.where(done <= self.warmup_steps, rising, falling)


class CosineDecay(EpochSchedule):
    """Half a cosine from ``peak`` to ``final``, after an optional linear warm-up.

    Args:
        peak: Value at the start, or at the end of the warm-up.
        end_epoch: Epoch, counted from the start of training, at which ``final`` is reached.
        steps_per_epoch: Updates per epoch.
        final: Value at the end and afterwards.
        warmup_epochs: Length of the warm-up; 0 for none.
        warmup_initial: Value at ``e = 0`` of the warm-up.

    Raises:
        UserError: If an argument is out of range, or the warm-up does not end before ``end_epoch``.
    """

    def __init__(
        self,
        peak: float,
        end_epoch: float,
        steps_per_epoch: int,
        final: float = 0.0,
        warmup_epochs: float = 0.0,
        warmup_initial: float = 0.0,
    ) -> None:
        super().__init__(steps_per_epoch)
        owner = type(self).__name__
        self.peak = number(owner, "peak", peak, low=0.0)
        self.final = number(owner, "final", final, low=0.0, inclusive=True)
        self.warmup_initial = number(
            owner, "warmup_initial", warmup_initial, low=0.0, inclusive=True
        )
        warmup = epochs_of(owner, "warmup_epochs", warmup_epochs, inclusive=True)
        end = epochs_of(owner, "end_epoch", end_epoch)
        if warmup >= end:
            raise UserError(
                f"{owner}: warmup_epochs is {warmup:g}, but the schedule ends at epoch {end:g}; "
                "give a shorter warm-up or a later end_epoch"
            )
        self.warmup_steps = warmup * self.steps_per_epoch
        self.decay_steps = (end - warmup) * self.steps_per_epoch
        self.span = self.peak - self.final
        # Without a warm-up the rising line is never chosen, but it must not divide by zero.
        self.warmup_divisor = self.warmup_steps if warmup > 0 else 1.0

    def construct(self, global_step: Tensor) -> Tensor:
        """Return the value at ``global_step`` (int32, () or [1]) as float32 of the same shape."""
        done = self.finished(global_step)
        rising = self.warmup_initial + (self.peak - self.warmup_initial) * (
            done / self.warmup_divisor
        )
        left = ops.relu(self.warmup_steps + self.decay_steps - done) / self.decay_steps
        left = ops.minimum(left, ops.ones_like(left))
        # (1 + cos(pi (1 - left))) / 2, without the cancellation near the end.
        falling = self.final + self.span * ops.square(ops.sin(0.5 * math.pi * left))
        return ops.where(done <= self.warmup_steps, rising, falling)


class StepDecay(EpochSchedule):
    """Multiplies the value by ``factor`` once every milestone epoch is over.

    Args:
        initial: Value before the first milestone.
        milestones: Finished epochs after which the value drops, in rising order.
        factor: What the value is multiplied with at each milestone.
        steps_per_epoch: Updates per epoch.

    Raises:
        UserError: If an argument is out of range or the milestones do not rise.
    """

    def __init__(
        self, initial: float, milestones: Sequence[float], factor: float, steps_per_epoch: int
    ) -> None:
        super().__init__(steps_per_epoch)
        owner = type(self).__name__
        self.initial = number(owner, "initial", initial, low=0.0)
        self.factor = number(owner, "factor", factor, low=0.0)
        if not isinstance(milestones, (list, tuple)) or not milestones:
            raise UserError(f"{owner}: milestones is {quoted(milestones)}; give a list of epochs")
        epochs = [epochs_of(owner, "milestones", epoch) for epoch in milestones]
        if any(later <= earlier for earlier, later in zip(epochs, epochs[1:])):
            raise UserError(
                f"{owner}: milestones {quoted(list(milestones))} must rise; put them in order"
            )
        for count in range(len(epochs) + 1):
            shrunk = self.factor**count
            if not all(FLOAT32[0] <= x <= FLOAT32[1] for x in (shrunk, shrunk * self.initial)):
                raise UserError(
                    f"{owner}: factor is {self.factor:g}, which leaves float32's range at "
                    f"milestone {count}; give one closer to 1"
                )
        self.milestone_steps = Tensor(
            [epoch * self.steps_per_epoch for epoch in epochs], mstype.float32
        )

    def construct(self, global_step: Tensor) -> Tensor:
        """Return the value at ``global_step`` (int32, () or [1]) as float32 of the same shape."""
        done = self.finished(global_step)
        passed = ops.cast(done.reshape((-1, 1)) > self.milestone_steps, mstype.float32)
        drops = passed.sum(axis=1).reshape(done.shape)
        return self.initial * ops.pow(self.factor + ops.zeros_like(drops), drops)


class ExponentialDecay(EpochSchedule):
    """Exponential decay of the damping, THOR paper Eq 15: ``initial * rho ** (e / 10)``.

    Args:
        initial: Value at ``e = 0`` (lambda_0).
        rho: Factor per ten epochs, in (0, 1].
        steps_per_epoch: Updates per epoch.

    Raises:
        UserError: If an argument is out of range.
    """

    def __init__(self, initial: float, rho: float, steps_per_epoch: int) -> None:
        super().__init__(steps_per_epoch)
        owner = type(self).__name__
        self.initial = number(owner, "initial", initial, low=0.0)
        if number(owner, "rho", rho, low=0.0) > 1.0:
            raise UserError(f"{owner}: rho is {quoted(rho)}; give a number in (0, 1]")
        self.rho = float(rho)
        # exp() of the whole exponent: one rounding, and no pow() of a constant base.
        self.rate = math.log(rho) / (_EPOCHS_PER_RHO * self.steps_per_epoch)

    def construct(self, global_step: Tensor) -> Tensor:
        """Return the value at ``global_step`` (int32, () or [1]) as float32 of the same shape."""
        return self.initial * ops.exp(self.rate * self.finished(global_step))


def check_damping(schedule: Any, epochs: float = 0.0) -> None:
    """Refuse a damping that reaches zero: without it a factor may have no inverse.

    Args:
        schedule: A schedule of this module; others are taken as they are.
        epochs: Length of the training.

    Raises:
        UserError: If the schedule's value is, or becomes, too small for float32.
    """
    if isinstance(schedule, ConstantSchedule) and schedule.value == 0:
        raise UserError("damping: value is 0; give a number above 0")
    if isinstance(schedule, PolynomialDecay) and schedule.final == 0:
        raise UserError("damping: a polynomial ends at zero; give final a number above 0")
    if isinstance(schedule, ExponentialDecay):
        last = schedule.initial * math.exp(math.log(schedule.rho) * epochs / _EPOCHS_PER_RHO)
        if last < FLOAT32[0]:
            raise UserError(
                f"damping: rho {schedule.rho:g} makes it zero within {epochs:g} epochs; give a rho "
                "closer to 1"
            )


SCHEDULES: dict[str, type[EpochSchedule]] = {
    "constant": ConstantSchedule,
    "polynomial": PolynomialDecay,
    "warmup_polynomial": WarmupPolynomialDecay,
    "cosine": CosineDecay,
    "step": StepDecay,
    "exponential": ExponentialDecay,
    "inverse_sqrt": InverseSquareRoot,
    "noam": Noam,
}
"""Schedules by the name that configurations use."""

DAMPING_SCHEDULES = ("constant", "exponential", "polynomial", "step")
"""The schedules that need not reach zero: without damping a factor may have no inverse."""


def schedule_options(name: str) -> dict[str, inspect.Parameter]:
    """Return the arguments of a schedule by name, ``steps_per_epoch`` left out.

    Args:
        name: A key of ``SCHEDULES``.

    Returns:
        The constructor's parameters in their order.
    """
    parameters = dict(inspect.signature(SCHEDULES[name]).parameters)
    parameters.pop("steps_per_epoch", None)
    return parameters


def create_schedule(
    name: str, steps_per_epoch: int, epochs: float, **options: Any
) -> EpochSchedule:
    """Build a schedule from its name.

    Args:
        name: A key of ``SCHEDULES``.
        steps_per_epoch: Updates per epoch.
        epochs: Length of the training; the end of a schedule that has one, where ``options`` gives
            no ``end_epoch``.
        **options: The schedule's own arguments.

    Returns:
        The schedule.

    Raises:
        UserError: If the name is unknown, an argument is missing, unknown or out of range.
    """
    if name not in SCHEDULES:
        raise UserError(f"unknown schedule {name!r}; choose one of {', '.join(SCHEDULES)}")
    parameters = schedule_options(name)
    unknown = [key for key in options if key not in parameters]
    if unknown:
        valid = ", ".join(parameters)
        raise UserError(f"schedule {name!r} has no argument {unknown[0]!r}; it has {valid}")
    if "end_epoch" in parameters and "end_epoch" not in options:
        warmup = options.get("warmup_epochs", 0) if name == "warmup_polynomial" else 0
        warmup = epochs_of(SCHEDULES[name].__name__, "warmup_epochs", warmup, inclusive=True)
        options["end_epoch"] = epochs - warmup
    for key, parameter in parameters.items():
        if key not in options and parameter.default is parameter.empty:
            raise UserError(f"schedule {name!r} needs {key!r}; give it a value")
    return SCHEDULES[name](steps_per_epoch=steps_per_epoch, **options)
