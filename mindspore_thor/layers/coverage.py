"""Which layers take part, found by identity and type, never by name; and why the others do not."""

from __future__ import annotations

import dis
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from mindspore import Parameter, nn

from mindspore_thor.errors import UserError
from mindspore_thor.graph.shared import Maker, one_of_each
from mindspore_thor.layers.layer_type import Form, LayerType
from mindspore_thor.layers.registry import layer_type_of
from mindspore_thor.layers.rows import Rows, TableRows
from mindspore_thor.layers.uses import is_mindspores, used_outside


@dataclass
class LayerRow:
    """One line of the coverage table: a cell that owns trainable parameters.

    Attributes:
        layer: the cell's name inside the network.
        type: the cell's class.
        covered: whether its gradient is preconditioned.
        reason: why not, or how.
        accepted: inverses computed so far.
        kept: refreshes that kept the previous inverse.
        stopped: whether the layer's curvature is frozen for good.
        inverts: whether the layer's rule has inverses to accept or keep.
        rule: what moves its parameters: the method's name, "plain" or "AdamW"; where they differ,
            each with its name.
        parameters: names of its own trainable parameters.
    """

    layer: str
    type: str
    covered: bool
    reason: str = ""
    accepted: int = 0
    kept: int = 0
    stopped: bool = False
    inverts: bool = True
    rule: str = ""
    parameters: tuple[str, ...] = field(default=(), repr=False)


@dataclass
class CoveredLayer:
    """A layer that a method can precondition.

    Attributes:
        name: the cell's name inside the network.
        cell: the layer itself.
        type: what is known of its class.
        rows: its geometry (None where nothing is captured), the same cell for all layers that are
            alike.
        weight: index of its weight among the optimizer's parameters.
        bias: index of its bias, or -1 where it has none or it is not trained.
        own_construct: whether a subclass replaced ``construct``.
        elsewhere: who else seems to use the weight, as far as the network's code tells.
    """

    name: str
    cell: nn.Cell
    type: LayerType
    rows: Rows | TableRows | None
    weight: int
    bias: int
    own_construct: bool
    elsewhere: str = ""

    @property
    def linear(self) -> Rows:
        """The geometry of a linear layer."""
        assert self.type.form is Form.LINEAR
        return cast(Rows, self.rows)

    @property
    def table(self) -> TableRows:
        """The geometry of a look-up."""
        assert self.type.form is Form.LOOK_UP
        return cast(TableRows, self.rows)


def _own_parameters(cell: nn.Cell) -> list[Parameter]:
    return [p for p in cell.get_parameters(expand=False) if p.requires_grad]


def _calls_operator(cell: nn.Cell, entry: LayerType) -> bool:
    """Whether a subclass with its own construct still reaches the operator that is hooked.

    That is so where the construct loads ``self.<operator>`` or calls ``super()``; a free function
    of the same name (``ops.matmul``) would bypass the hook.
    """
    for cls in type(cell).__mro__:
        if cls is entry.cell:
            return False
        construct = cls.__dict__.get("construct")
        code = getattr(construct, "__code__", None)
        if code is None:
            continue
        previous = None
        for instruction in dis.get_instructions(code):
            if instruction.argval == "super":
                return True
            on_self = previous is not None and previous.argval == code.co_varnames[0]
            if instruction.argval == entry.operator and on_self:
                return True
            previous = instruction
        return False
    return False


def find_layers(
    net: nn.Cell,
    parameters: Sequence[Parameter],
    supported: Sequence[Form],
    token_mode: str = "expand",
    make: Maker | None = None,
) -> tuple[list[CoveredLayer], list[LayerRow]]:
    """Sort a network's weight-bearing cells into covered ones and the rest.

    Args:
        net: any network.
        parameters: the parameters that the optimizer trains.
        supported: the forms of layers that the method covers.
        token_mode: see :class:`mindspore_thor.layers.types.dense.DenseRows`.
        make: makes one cell for all layers that are alike; default a new maker.

    Returns:
        The covered layers, and one report row for every weight-bearing cell in the net's order.

    Raises:
        UserError: for a layer that has not what its type's entry says.
    """
    make = make or one_of_each()
    index = {id(p): i for i, p in enumerate(parameters)}
    owners: dict[int, list[tuple[str, nn.Cell]]] = {}
    cells = [(name, cell) for name, cell in net.cells_and_names() if _own_parameters(cell)]
    for name, cell in cells:
        for p in _own_parameters(cell):
            owners.setdefault(id(p), []).append((name, cell))
    readers = used_outside(net)
    covered: list[CoveredLayer] = []
    rows: list[LayerRow] = []
    for name, cell in cells:
        label = name or type(cell).__name__
        names = tuple(p.name for p in _own_parameters(cell))
        row = LayerRow(label, type(cell).__name__, False, parameters=names)
        rows.append(row)
        entry = layer_type_of(cell)
        row.reason = _why_not(cell, entry, supported, index, owners)
        reader = readers.get(id(cell))
        if not row.reason and is_mindspores(reader) and not _is_called(cell, reader):
            # As MindSpore's own cells may do: no graph can tell more.
            row.reason = (
                f"layer itself not used, its weight is by {type(reader).__name__}: plain gradient"
            )
        if row.reason or entry is None:
            continue
        row.covered = True
        layer = _describe(label, cell, entry, index, token_mode, make)
        # The statistics of the layer's operator know nothing of such uses.
        if reader is not None:
            layer.elsewhere = f"weight also used by {type(reader).__name__}: plain gradient"
        else:
            layer.elsewhere = _held(cell, owners[id(_weight_of(cell, entry))]) or entry.unsure
        covered.append(layer)
    return covered, rows


def _is_called(cell: nn.Cell, reader: nn.Cell) -> bool:
    """Whether a cell that reads this one's weight calls it once it is captured itself."""
    entry = layer_type_of(reader)
    names = () if entry is None or entry.why_not(reader) else entry.calls
    return any(getattr(reader, name, None) is cell for name in names)


def _held(cell: nn.Cell, owners: list[tuple[str, nn.Cell]]) -> str:
    others = [type(other).__name__ for _, other in owners if other is not cell]
    return f"weight also held by {others[0]}: plain gradient" if others else ""


def _why_not(
    cell: nn.Cell,
    entry: LayerType | None,
    supported: Sequence[Form],
    index: dict[int, int],
    owners: dict[int, list[tuple[str, nn.Cell]]],
) -> str:
    """The reason for the plain gradient, or an empty string where the layer is covered."""
    if entry is not None and entry.form is Form.PLAIN:
        return entry.why_not(cell)
    if entry is None or entry.form not in supported:
        return f"{type(cell).__name__}: no rule for this layer type, plain gradient"
    weight = _weight_of(cell, entry)
    if weight is None:
        return entry.why_not(cell) or "weight is not trained"
    if not weight.requires_grad:
        return "weight is not trained"
    if id(weight) not in index:
        return "weight is not among this optimizer's params"
    others = [o for o, other in owners[id(weight)] if other is not cell and _is_layer(other)]
    if others:
        return f"weight shared with {others[0]}: plain gradient"
    reason = entry.why_not(cell)
    if reason or not entry.hooked or not entry.own_construct(cell):
        return reason
    if not _calls_operator(cell, entry):
        return "own construct without the layer's operator: plain gradient"
    return ""


def _is_layer(cell: nn.Cell) -> bool:
    entry = layer_type_of(cell)
    return (entry is not None and entry.form is not Form.PLAIN) or is_mindspores(cell)


def _weight_of(cell: nn.Cell, entry: LayerType) -> Parameter | None:
    return getattr(cell, entry.weight, None)


def _describe(
    name: str,
    cell: nn.Cell,
    entry: LayerType,
    index: dict[int, int],
    token_mode: str,
    make: Maker,
) -> CoveredLayer:
    weight = _weight_of(cell, entry)
    own = entry.own_construct(cell)
    used = entry.hooked and (own or entry.captured is None)
    if used and not hasattr(cell, entry.operator):
        raise UserError(
            f"layer type {entry.cell.__name__}: its layers have no operator {entry.operator[:40]!r}"
        )
    bias = getattr(cell, entry.bias, None) if entry.bias else None
    rows = None if entry.rows is None else entry.rows(make, cell, token_mode)
    bias_index = index.get(id(bias), -1) if bias is not None else -1
    return CoveredLayer(name, cell, entry, rows, index[id(weight)], bias_index, own)
