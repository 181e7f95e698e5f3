"""State: parameters that belong to a step's optimizer, and how the host looks at them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, ops


def state(value: np.ndarray, name: str) -> Parameter:
    """A parameter of the training state."""
    return Parameter(Tensor(value), name=name, requires_grad=False)


class StateRows:
    """Some rows of a parameter, seen from the host.

    Args:
        parameter: any shape.
        start: first row.
        count: how many.
        single: whether one row is shown without its axis.
    """

    def __init__(self, parameter: Parameter, start: int, count: int, single: bool = False) -> None:
        self._parameter = parameter
        self._start = start
        self._place: Any = start if single else slice(start, start + count)

    def row(self, number: int) -> StateRows:
        """One of these rows, without its axis."""
        return StateRows(self._parameter, self._start + number, 1, True)

    def asnumpy(self) -> np.ndarray:
        """A copy of the values."""
        return np.array(self._parameter.asnumpy()[self._place])

    def set_data(self, value: Tensor) -> None:
        """Write new values of the same shape, where compiled graphs see them."""
        whole = self._parameter.asnumpy().copy()
        whole[self._place] = value.asnumpy()
        ops.assign(self._parameter, Tensor(whole))


class LayerState:
    """What a group stores of one of its layers, seen from the host.

    A parameter of the group appears as a :class:`StateRows`, a method without arguments that
    returns a tensor with the leading axis L returns the layer's part; all else is the group's.

    Args:
        group: the group, a :class:`~mindspore_thor.curvature.group.GroupCurvature`.
        layer: number of the layer in it.
    """

    def __init__(self, group: Any, layer: int) -> None:
        self.group = group
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.group, name)
        if isinstance(value, StateRows):
            return value.row(self.layer)
        if isinstance(value, Parameter):
            count = value.shape[0] // self.group.layers
            return StateRows(value, self.layer * count, count, count == 1)
        if name in ACCESSORS and callable(value):
            return lambda: value()[self.layer]
        return value


ACCESSORS: Sequence[str] = (
    "factor_a", "factor_g", "factor_phi", "factor_psi", "delta", "phi", "psi",
    "mean_a", "mean_g", "positions", "spectrum",
)  # fmt: skip
"""Methods of groups that :class:`LayerState` shows a layer's part of."""
