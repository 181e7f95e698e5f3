"""AdamW or NAdamW for what a second-order method does not cover: biases, norms, tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.nn.learning_rate_schedule import LearningRateSchedule

from mindspore_thor.curvature.state import state
from mindspore_thor.graph.tuples import pick
from mindspore_thor.optim.adam import AdamSettings, adam_direction, as_tuple, bias_corrections
from mindspore_thor.optim.checks import check_learning_rate


class RateTable(LearningRateSchedule):
    """One rate per step; the last one holds from there on.

    Args:
        rates: float32 [steps].
    """

    def __init__(self, rates: np.ndarray) -> None:
        super().__init__()
        self.rates = Tensor(rates, ms.float32)
        self.last = len(rates) - 1

    def construct(self, global_step: Tensor) -> Tensor:
        """The rate of a step, a scalar."""
        step = ops.minimum(global_step.reshape(()), self.last)
        return ops.gather(self.rates, step, 0)


def _one_value(value: Any, number: int) -> Any:
    return value


def _zero_where(moved: bool, gradient: Tensor) -> Tensor:
    return ops.zeros_like(gradient) if moved else gradient


def _descend(rate: Any, decay: Any, decays: bool, weight: Parameter, direction: Tensor) -> bool:
    if decays:
        direction = direction + decay * ops.cast(weight, direction.dtype)
    ops.assign_sub(weight, ops.cast(rate * direction, weight.dtype))
    return True


class Rest(nn.Cell):
    """w <- w - lr (m^ / (sqrt(v^) + eps) + wd w) for some of an optimizer's parameters.

    With Nesterov's momentum it is NAdamW's step. Which ones is decided by :meth:`take`. Their
    gradients are neither clipped nor centralized.

    Args:
        label: prefix of the state's names.
        weights: all parameters of the optimizer.
        rate: number, list or schedule of its own; None for the optimizer's.
        settings: of Adam.
        decay: weight decay of its own; None for the optimizer's.
    """

    def __init__(
        self,
        label: str,
        weights: Sequence[Parameter],
        rate: Any,
        settings: AdamSettings,
        decay: float | None,
    ) -> None:
        super().__init__(auto_prefix=False)
        self._label = label
        self._all = tuple(weights)
        self._room: dict[int, tuple[Parameter, Parameter]] = {}
        self.settings = as_tuple(settings)
        self.rule = "NAdamW" if settings.nesterov else "AdamW"
        self.own_decay = decay
        self.own_rate = rate is not None
        self.scheduled = False
        if rate is not None:
            check_learning_rate(rate)
            self.learning_rate = self._rate(rate)
            self.scheduled = isinstance(self.learning_rate, nn.Cell)
        self.map = ops.Map()
        self.count = 0
        self.numbers: tuple[int, ...] = ()

    def _rate(self, rate: Any) -> Any:
        if isinstance(rate, LearningRateSchedule):
            return rate
        values = np.asarray(rate.asnumpy() if isinstance(rate, Tensor) else rate, np.float32)
        if values.ndim > 0:
            return RateTable(values.reshape(-1))
        return state(values, f"{self._label}.{self._all[0].name}.rest_learning_rate")

    def make_room(self, numbers: Iterable[int]) -> None:
        """Make the moments of parameters that :meth:`take` may be called with later.

        Args:
            numbers: among the optimizer's parameters.
        """
        for i in sorted(set(numbers) - self._room.keys()):
            weight = self._all[i]
            zeros = np.zeros(weight.shape, np.float32)
            names = (f"{self._label}.rest_{kind}.{weight.name}" for kind in ("first", "second"))
            first, second = (state(zeros, name) for name in names)
            self._room[i] = (first, second)
        # All of them are state, whoever is taken.
        self.state = ParameterTuple([p for pair in self._room.values() for p in pair])

    def take(self, numbers: Sequence[int], decays: Sequence[bool]) -> None:
        """Decide which parameters are moved from now on.

        Args:
            numbers: among the optimizer's parameters, in order.
            decays: for each of the optimizer's parameters whether it decays.
        """
        self.make_room(numbers)
        self.numbers = tuple(numbers)
        self.count = len(self.numbers)
        self.flags = tuple(i in set(numbers) for i in range(len(self._all)))
        if self.count == 0:
            return
        self.weights = ParameterTuple([self._all[i] for i in self.numbers])
        self.first = ParameterTuple([self._room[i][0] for i in self.numbers])
        self.second = ParameterTuple([self._room[i][1] for i in self.numbers])
        self.decays = tuple(bool(decays[i]) for i in self.numbers)

    # -- inside compiled graphs ---------------------------------------------------------------

    def move(
        self, gradients: tuple[Tensor, ...], lr: Any, decay: Any, global_step: Parameter
    ) -> tuple[Tensor, ...]:
        """Update the parameters that were taken; their gradients come back as zeros.

        Args:
            gradients: of all parameters, without a loss scale.
            lr: the optimizer's rate, or one for every parameter.
            decay: its weight decay, likewise.
            global_step: finished steps, int32 [1].
        """
        if self.count == 0:
            return gradients
        mine = self.map(ops.partial(pick, gradients), self.numbers)
        step = ops.cast(global_step.reshape(()), ms.float32) + 1.0
        corrections = bias_corrections(self.settings, step)
        adam = ops.partial(adam_direction, self.settings, corrections)
        directions = self.map(adam, self.first, self.second, mine)
        rates = self.each(self.current_rate(global_step) if self.own_rate else lr)
        decays = self.each(decay if self.own_decay is None else self.own_decay)
        self.map(_descend, rates, decays, self.decays, self.weights, directions)
        return self.map(_zero_where, self.flags, gradients)

    def current_rate(self, global_step: Parameter) -> Tensor:
        """The own rate of this step, a scalar."""
        if self.scheduled:
            return self.learning_rate(global_step).reshape(())
        return self.learning_rate

    def each(self, value: Any) -> tuple[Any, ...]:
        """A value for every parameter that is moved, from one for all or one for each of all."""
        if isinstance(value, tuple):
            return self.map(ops.partial(pick, value), self.numbers)
        return self.map(ops.partial(_one_value, value), self.numbers)
