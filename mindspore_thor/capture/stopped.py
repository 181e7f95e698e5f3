"""Layers whose own operators pass no gradient to their weights, while a graph is compiled.

What is left of a weight's gradient then comes from uses outside of the layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindspore_thor.capture.attach import owns_bias
from mindspore_thor.capture.plain import BIAS_ADD, HOOK
from mindspore_thor.layers.coverage import CoveredLayer
from mindspore_thor.layers.layer_type import Form
from mindspore_thor.layers.rows import Rows, TableRows


class _Stopped(nn.Cell):
    """An operator through which no gradient flows to some of its inputs.

    Args:
        operator: what it does.
        stopped: numbers of these inputs.
        mark: a scalar 0 that is added to the output: it has a gradient where the operator is used.
    """

    def __init__(self, operator: Any, stopped: tuple[int, ...], mark: Parameter | None) -> None:
        super().__init__(auto_prefix=False)
        self.operator = operator
        self.stopped = stopped
        self.marked = mark is not None
        self.mark = mark

    def construct(self, *inputs: Any) -> Any:
        """The operator's output."""
        taken: tuple[Any, ...] = ()
        for i in range(len(inputs)):
            if i in self.stopped:
                taken += (ops.stop_gradient(inputs[i]),)
            else:
                taken += (inputs[i],)
        out = self.operator(*taken)
        if self.marked:
            out = out + ops.cast(self.mark, out.dtype)
        return out


class _Product(nn.Cell):
    """The map of a layer whose operator a hook has replaced: (x, weight)."""

    def __init__(self, rows: Rows) -> None:
        super().__init__(auto_prefix=False)
        self.rows = rows

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer's linear map."""
        return self.rows.apply(x, ops.cast(weight, x.dtype))


class _LookUp(nn.Cell):
    """Likewise of a table: (table, ids, axis)."""

    def __init__(self, rows: TableRows) -> None:
        super().__init__(auto_prefix=False)
        self.rows = rows

    def construct(self, table: Tensor, ids: Tensor, axis: int) -> Tensor:
        """The look-up."""
        return self.rows.apply(ids, table)


_MAPS: dict[Form, Any] = {Form.LINEAR: _Product, Form.LOOK_UP: _LookUp}
_PARAMETERS = {Form.LINEAR: (1,), Form.LOOK_UP: (0,), Form.ELEMENTWISE: (1, 2)}
"""Which inputs of a layer's operator are its parameters."""


def _replacements(layer: CoveredLayer, mark: Parameter | None) -> dict[str, Any]:
    """Attribute of the layer -> what takes its place."""
    cell, entry = layer.cell, layer.type
    operator: Any
    if HOOK in cell.__dict__:
        name, operator = HOOK, _MAPS[entry.form](layer.rows)
    else:
        name = entry.operator
        operator = getattr(cell, name)
        operator = getattr(operator, "replaced", operator)
    found = {name: _Stopped(operator, _PARAMETERS[entry.form], mark)}
    if owns_bias(layer):
        name = entry.bias_operator
        _, add = cell.__dict__.get(BIAS_ADD) or (name, getattr(cell, name))
        found[name] = _Stopped(add, (1,), None)
    return found


@contextmanager
def stopped(layers: Sequence[CoveredLayer]) -> Iterator[tuple[Parameter | None, ...]]:
    """While this holds, the layers' own operators pass no gradient to weight and bias.

    Args:
        layers: layers with and without capture.

    Yields:
        For each layer a scalar with a gradient where the layer is used; None where none can be told
        because nothing of it is captured.
    """
    marks = tuple(
        Parameter(Tensor(np.zeros(()), ms.float32), name=f"mark.{layer.name}")
        if layer.type.hooked
        else None
        for layer in layers
    )
    saved = []
    try:
        for layer, mark in zip(layers, marks):
            for name, value in _replacements(layer, mark).items():
                saved.append((layer.cell, name, getattr(layer.cell, name)))
                # Around the cell's registry, as in attach.py.
                object.__setattr__(layer.cell, name, value)
        yield marks
    finally:
        for cell, name, value in saved:
            object.__setattr__(cell, name, value)
