"""Which layers' weights a network seems to use outside of the layers themselves.

A table that a parent multiplies with, or the ``out_proj`` of ``nn.MultiheadAttention``, whose
weight goes into a function and which the class never calls: the statistics of the layer's own
operator know nothing of such uses. They are looked for in the code that a network's cells run: the
``construct`` of every cell, the methods and functions that it calls, and those of other cells, are
searched for a layer's parameter that somebody else reads.

That is a first answer, which holds where nobody knows better. A ``TrainStep`` does: see
:mod:`mindspore_thor.step.elsewhere`.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

from mindspore import nn

from mindspore_thor.layers.registry import weight_names

PROPERTIES = ("dtype", "shape", "ndim", "size", "name", "requires_grad", "itemsize", "nbytes")
"""What may be asked of a weight without using its values."""
_READS = ("LOAD_ATTR", "LOAD_METHOD")
_SKIPPED = ("PRECALL", "CACHE", "EXTENDED_ARG", "NOP")
_DEPTH = 20


def is_mindspores(value: Any) -> bool:
    """Whether a class, a function or a cell is a part of MindSpore."""
    owner = value if hasattr(value, "__qualname__") else type(value)
    return str(getattr(owner, "__module__", "")).partition(".")[0] == "mindspore"


def used_outside(net: nn.Cell, loss_fn: Any = None) -> dict[int, Any]:
    """Cells whose weight is read by another cell, or by the loss.

    Where it cannot be told which cell is meant (a loop over layers), all below the reader are.

    Args:
        net: any network.
        loss_fn: a cell or a function.

    Returns:
        id of the cell -> a cell that reads its weight, or the function.
    """
    found: dict[int, Any] = {}
    readers: list[Any] = [cell for _, cell in net.cells_and_names()]
    if isinstance(loss_fn, nn.Cell):
        readers += [cell for _, cell in loss_fn.cells_and_names()]
    elif loss_fn is not None:
        readers.append(loss_fn)
    for reader in readers:
        cell = reader if isinstance(reader, nn.Cell) else net
        for owner, path in _weights_read_by(reader, cell):
            for user in _meant(owner, path):
                if user is not reader:
                    found.setdefault(id(user), reader)
    return found


def _meant(cell: nn.Cell, path: tuple[str, ...]) -> Iterator[nn.Cell]:
    """The cells that own what ``self.<path>`` reads; an empty name stands for anything."""
    *way, weight = path
    owner = _at(cell, way)
    if isinstance(owner, nn.Cell):
        yield owner
        return
    for _, below in cell.cells_and_names():
        if weight in getattr(below, "_params", {}):
            yield below


def _at(cell: nn.Cell, way: list[str]) -> Any:
    owner: Any = cell
    for name in way:
        owner = getattr(owner, name, None) if name else None
    return owner


def _weights_read_by(reader: Any, cell: nn.Cell) -> set[tuple[nn.Cell, tuple[str, ...]]]:
    """What the code of a cell or a function reads of other cells.

    Args:
        reader: the cell or the function.
        cell: the same, or the network, for whatever the function reads of cells without a name.

    Returns:
        Pairs of a cell, and attribute names from there to the weight.
    """
    found: set[tuple[nn.Cell, tuple[str, ...]]] = set()
    is_cell = reader is cell
    begin = _method(cell, "construct") if is_cell else getattr(reader, "__func__", reader)
    waiting: list[tuple[Any, nn.Cell, bool, int]] = [(begin, cell, is_cell, 0)]
    seen: set[tuple[int, int]] = set()
    weights = weight_names()
    while waiting:
        function, owner, is_method, depth = waiting.pop()
        code = getattr(function, "__code__", None)
        if code is None or (id(code), id(owner)) in seen or depth > _DEPTH:
            continue
        seen.add((id(code), id(owner)))
        for chain in chains(code, is_method):
            own = chain[0] == "self" and len(chain) == 2 and owner is reader
            if chain[-1] in weights and len(chain) > 1 and not own:
                named = owner if chain[0] == "self" else _named(function, chain[0])
                if isinstance(named, nn.Cell):
                    found.add((named, tuple(chain[1:])))
                else:
                    found.add((owner, ("", chain[-1])))
            called = _called(owner, function, chain)
            if called is not None:
                waiting.append((*called, depth + 1))
    return found


def _method(cell: nn.Cell, name: str) -> Any:
    return next((c.__dict__[name] for c in type(cell).__mro__ if name in c.__dict__), None)


def _named(function: FunctionType, name: str) -> Any:
    """What a name stands for in a function, where it is no local one."""
    free = dict(zip(function.__code__.co_freevars, function.__closure__ or ()))
    if name not in free:
        return function.__globals__.get(name)
    try:
        return free[name].cell_contents
    except ValueError:  # not set yet
        return None


def _called(
    cell: nn.Cell, function: FunctionType, chain: list[str]
) -> tuple[FunctionType, nn.Cell, bool] | None:
    """What the code may call: a function, the cell that is its ``self``, and whether it has one.

    A method of the cell, one that users wrote of another cell, or a function of theirs.
    """
    owner = cell
    if chain[0] == "self" and len(chain) > 1:
        owner = _at(cell, chain[1:-1])
        if not isinstance(owner, nn.Cell):
            return None
        value = _method(owner, chain[-1])
        if owner is not cell and (chain[-1] == "construct" or is_mindspores(value)):
            return None
    elif len(chain) == 1:
        value = _named(function, chain[0])
        if is_mindspores(value):
            return None
    else:
        return None
    return (value, owner, chain[0] == "self") if isinstance(value, FunctionType) else None


def chains(code: CodeType, is_method: bool) -> Iterator[list[str]]:
    """Every run of attribute reads in some code: ["self", "emb", "embedding_table"].

    ``getattr`` with a weight's name counts as a read; a weight's properties do not.

    Args:
        code: that of a function.
        is_method: whether its first argument is "self".

    Yields:
        Lists whose first entry is "self", the name of what is no local value, or empty.
    """
    first = code.co_varnames[0] if code.co_argcount and is_method else None
    chain: list[str] = []
    weights = weight_names()
    steps = [step for step in dis.get_instructions(code) if step.opname not in _SKIPPED]
    for step, following in zip(steps, [*steps[1:], None]):
        asked = following is not None and following.opname in _READS
        harmless = following is not None and asked and following.argval in PROPERTIES
        if step.opname in _READS:
            chain = [*(chain or ["", ""]), str(step.argval)]
            if not (harmless and chain[-1] in weights):
                yield chain
        elif step.opname.startswith("LOAD_FAST"):
            chain = ["self"] if step.argval == first else ["", ""]
        elif step.opname in ("LOAD_GLOBAL", "LOAD_DEREF"):
            chain = [str(step.argval)]
            yield chain
        elif step.opname == "LOAD_CONST" and step.argval in weights:
            yield [*(chain or ["", ""]), step.argval]
            chain = []
        else:
            chain = []
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from chains(constant, False)
