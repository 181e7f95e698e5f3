"""What the package has to know of a layer type."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Callable, Protocol

from mindspore import nn

from mindspore_thor.graph.shared import Maker
from mindspore_thor.layers.rows import Rows, TableRows


class Form(enum.Enum):
    """How a layer's weight acts on its input. A method says which forms it covers."""

    LINEAR = "linear"
    """A linear map of rows; its operator is called with (x, weight)."""
    LOOK_UP = "look-up"
    """Rows of a table (TableRows); its operator is called with (table, ids, axis)."""
    ELEMENTWISE = "elementwise"
    """A scale and a shift; its operator is called with (x, scale, shift). Nothing is captured."""
    PLAIN = "plain"
    """None that any method could use: the layer type is only there to say why."""


class MakeRows(Protocol):
    """``rows(make, cell, token_mode)``: the geometry of one layer."""

    def __call__(self, make: Maker, cell: Any, token_mode: str) -> Rows | TableRows:
        """Return ``make(RowsClass, ...)``, so that layers that are alike share one cell.

        Args:
            make: ``make(cls, *arguments)`` is ``cls(*arguments)``, made once for equal arguments.
            cell: the layer.
            token_mode: the optimizer's: what the positions of [N, S, d] are ("expand", "reduce",
                "share").
        """


def _covered(cell: nn.Cell) -> str:
    return ""


@dataclass(frozen=True, eq=False)
class LayerType:
    """One layer type; the only thing that knows its class.

    Attributes:
        cell: the class. Subclasses are covered, too, as long as their own ``construct`` uses
            ``self.<operator>`` or ``super()``.
        rows: makes a layer's geometry; None where nothing is captured.
        operator: attribute of the layer that a hook replaces: it is called as ``form`` says.
        form: how the weight acts on the input.
        captured: a subclass of ``cell``, where the operator alone does not see the layer's whole
            input: its ``construct`` takes the place of the class's own, and calls
            ``self._thor_hook`` in the place of the operator.
        weight: attribute that holds the weight.
        bias: attribute that holds the bias; empty where there is none.
        bias_operator: attribute of the layer or of ``captured`` that is called with (map, bias)
            right after the map, for methods that make the bias's gradient themselves. Where it is
            empty, the bias stays plain in those.
        activation: attribute that the layer applies to its own output; empty for none.
        why_not: a layer -> why it has the plain gradient, empty where it is covered.
        unsure: why a layer may have the plain gradient all the same, which a ``TrainStep`` finds
            out at its first batch; empty where its code alone says enough.
        calls: attributes that hold cells which ``captured`` calls, while the class itself only
            reads their weights.
    """

    cell: type[nn.Cell]
    rows: MakeRows | None = None
    operator: str = ""
    form: Form = Form.LINEAR
    captured: type[nn.Cell] | None = None
    weight: str = "weight"
    bias: str = "bias"
    bias_operator: str = "bias_add"
    activation: str = ""
    why_not: Callable[[Any], str] = _covered
    unsure: str = ""
    calls: tuple[str, ...] = ()

    @property
    def hooked(self) -> bool:
        """Whether statistics come out of the layer's own backward pass."""
        return self.form in (Form.LINEAR, Form.LOOK_UP)

    def own_construct(self, cell: nn.Cell) -> bool:
        """Whether a subclass has replaced ``construct``."""
        return type(cell).construct is not self.cell.construct
