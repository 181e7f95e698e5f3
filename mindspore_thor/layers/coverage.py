"""Which layers take part, found by identity and type, never by name; and why the others do not."""

from __future__ import annotations

import dis
from collections.abc import Sequence
from dataclasses import dataclass

from mindspore import Parameter, nn

from mindspore_thor.graph.shared import Maker, one_of_each, same_operator
from mindspore_thor.layers.rows import ConvRows, DenseRows, EmbeddingRows
from mindspore_thor.layers.uses import is_mindspores, used_outside
from mindspore_thor.linalg.patches import ConvGeometry

_LAYERS = (nn.Dense, nn.Conv2d, nn.Embedding, nn.LayerNorm)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm)


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
    """

    layer: str
    type: str
    covered: bool
    reason: str = ""
    accepted: int = 0
    kept: int = 0
    stopped: bool = False


@dataclass
class CoveredLayer:
    """A layer that a method can precondition.

    Attributes:
        name: the cell's name inside the network.
        cell: the layer itself.
        base: nn.Dense, nn.Conv2d, nn.Embedding or nn.LayerNorm.
        rows: its geometry (None for LayerNorm), the same cell for all layers that are alike.
        weight: index of its weight among the optimizer's parameters.
        bias: index of its bias, or -1 where it has none or it is not trained.
        own_construct: whether a subclass replaced ``construct``.
        elsewhere: who else seems to use the weight, as far as the network's code tells.
    """

    name: str
    cell: nn.Cell
    base: type[nn.Cell]
    rows: nn.Cell | None
    weight: int
    bias: int
    own_construct: bool
    elsewhere: str = ""


def _conv_geometry(cell: nn.Conv2d) -> ConvGeometry:
    padding: tuple[int, int, int, int] | None
    if cell.pad_mode == "same":
        padding = None
    elif cell.pad_mode == "valid":
        padding = (0, 0, 0, 0)
    else:
        pad = cell.padding
        padding = (pad, pad, pad, pad) if isinstance(pad, int) else tuple(pad)
    return ConvGeometry(
        tuple(cell.kernel_size), tuple(cell.stride), padding, tuple(cell.dilation), cell.group
    )


def _own_parameters(cell: nn.Cell) -> list[Parameter]:
    return [p for p in cell.get_parameters(expand=False) if p.requires_grad]


def _calls_operator(cell: nn.Cell, base: type[nn.Cell]) -> bool:
    """Whether a subclass with its own construct still reaches the operator that is hooked.

    That is so where the construct loads ``self.<operator>`` or calls ``super()``; a free function
    of the same name (``ops.matmul``) would bypass the hook.
    """
    operator = {nn.Dense: "matmul", nn.Conv2d: "conv2d", nn.Embedding: "gather"}[base]
    for cls in type(cell).__mro__:
        if cls is base:
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
            if instruction.argval == operator and on_self:
                return True
            previous = instruction
        return False
    return False


def find_layers(
    net: nn.Cell,
    parameters: Sequence[Parameter],
    supported: Sequence[type],
    token_mode: str = "expand",
    make: Maker | None = None,
) -> tuple[list[CoveredLayer], list[LayerRow]]:
    """Sort a network's weight-bearing cells into covered ones and the rest.

    Args:
        net: any network.
        parameters: the parameters that the optimizer trains.
        supported: the layer classes that the method covers.
        token_mode: see :class:`mindspore_thor.layers.rows.DenseRows`.
        make: makes one cell for all layers that are alike; default a new maker.

    Returns:
        The covered layers, and one report row for every weight-bearing cell in the net's order.
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
        row = LayerRow(label, type(cell).__name__, False)
        rows.append(row)
        base = next((b for b in _LAYERS if isinstance(cell, b)), None)
        row.reason = _why_not(cell, base, supported, index, owners)
        reader = readers.get(id(cell))
        if not row.reason and reader is not None and is_mindspores(reader):
            # As nn.MultiheadAttention does: no graph can tell more.
            row.reason = (
                f"layer itself not used, its weight is by {type(reader).__name__}: plain gradient"
            )
        if row.reason or base is None:
            continue
        row.covered = True
        layer = _describe(label, cell, base, index, token_mode, make)
        # The statistics of the layer's operator know nothing of such uses.
        if reader is not None:
            layer.elsewhere = f"weight also used by {type(reader).__name__}: plain gradient"
        else:
            layer.elsewhere = _held(cell, owners[id(_weight_of(cell, base))])
        covered.append(layer)
    return covered, rows


def _held(cell: nn.Cell, owners: list[tuple[str, nn.Cell]]) -> str:
    others = [type(other).__name__ for _, other in owners if other is not cell]
    return f"weight also held by {others[0]}: plain gradient" if others else ""


def _why_not(
    cell: nn.Cell,
    base: type[nn.Cell] | None,
    supported: Sequence[type],
    index: dict[int, int],
    owners: dict[int, list[tuple[str, nn.Cell]]],
) -> str:
    """The reason for the plain gradient, or an empty string where the layer is covered."""
    if isinstance(cell, _NORMS):
        return "normalisation: plain gradient"
    if base is None or base not in supported:
        return f"{type(cell).__name__}: no rule for this layer type, plain gradient"
    weight = _weight_of(cell, base)
    if weight is None or not weight.requires_grad:
        return "weight is not trained"
    if id(weight) not in index:
        return "weight is not among this optimizer's params"
    others = [o for o, other in owners[id(weight)] if other is not cell and _is_layer(other)]
    if others:
        return f"weight shared with {others[0]}: plain gradient"
    if base is nn.Conv2d and cell.data_format != "NCHW":
        return "NHWC layout: plain gradient"
    if base is nn.Embedding and type(cell).construct is not base.construct:
        # The layer's operator sees flattened ids, from which the batch size cannot be told.
        return "own construct: plain gradient"
    if (
        base is not nn.LayerNorm
        and type(cell).construct is not base.construct
        and not _calls_operator(cell, base)
    ):
        return "own construct without the layer's operator: plain gradient"
    return ""


def _is_layer(cell: nn.Cell) -> bool:
    return isinstance(cell, _LAYERS) or is_mindspores(cell)


def _weight_of(cell: nn.Cell, base: type[nn.Cell]) -> Parameter | None:
    name = {nn.Embedding: "embedding_table", nn.LayerNorm: "gamma"}.get(base, "weight")
    return getattr(cell, name, None)


def _describe(
    name: str,
    cell: nn.Cell,
    base: type[nn.Cell],
    index: dict[int, int],
    token_mode: str,
    make: Maker,
) -> CoveredLayer:
    weight = _weight_of(cell, base)
    assert weight is not None
    bias = getattr(cell, "beta" if base is nn.LayerNorm else "bias", None)
    own = type(cell).construct is not base.construct
    rows: nn.Cell | None = None
    if base is nn.Dense:
        rows = make(DenseRows, weight.shape[1], weight.shape[0], token_mode)
    elif base is nn.Conv2d:
        operator = same_operator(make, cell.conv2d)
        rows = make(ConvRows, operator, _conv_geometry(cell), tuple(weight.shape))
    elif base is nn.Embedding:
        rows = make(EmbeddingRows, weight.shape[0], weight.shape[1])
    bias_index = index.get(id(bias), -1) if bias is not None else -1
    return CoveredLayer(name, cell, base, rows, index[id(weight)], bias_index, own)
