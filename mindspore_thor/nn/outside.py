"""Which layers' weights a network seems to use outside of the layers themselves.

A table that a parent multiplies with, or the ``out_proj`` of ``nn.MultiheadAttention``, whose
weight goes into a function and which is never called: the statistics of the layer's own operator
know nothing of such uses. They are looked for in the code that a network's cells run: the
``construct`` of every cell, the methods and functions that it calls, and those of other cells, are
searched for a layer's parameter that somebody else reads.

That is a first answer, which holds where nobody knows better. A ``TrainStep`` does: see
:mod:`mindspore_thor.train.elsewhere`.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

from mindspore import nn

WEIGHTS = ("weight", "embedding_table", "gamma")
PROPERTIES = ("dtype", "shape", "ndim", "size", "name", "requires_grad", "itemsize", "nbytes")
"""What may be asked of a weight without using its values."""
_READS = ("LOAD_ATTR", "LOAD_METHOD")
_SKIPPED = ("PRECALL", "CACHE", "EXTENDED_ARG", "NOP")
_DEPTH = 20


def is_mindspores(value: Any) -> bool:
    """Whether a class, a function or a cell is a part of MindSpore."""
    owner = value if hasattr(value, "__qualname__") else type(value)
    return str(getattr(owner, "__module__", "")).partition(".")[0] == "mindspore"


def used_outside(net: nn.Cell) -> dict[int, nn.Cell]:
    """Cells whose weight is read by another cell.

    Where it cannot be told which cell is meant (a loop over layers), all below the reader are.

    Args:
        net: any network.

    Returns:
        id of the cell -> a cell that reads its weight.
    """
    found: dict[int, nn.Cell] = {}
    for _, cell in net.cells_and_names():
        for owner, path in _weights_read_by(cell):
            for user in _meant(owner, path):
                if user is not cell:
                    found.setdefault(id(user), cell)
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


def _weights_read_by(cell: nn.Cell) -> set[tuple[nn.Cell, tuple[str, ...]]]:
    """What a cell's code reads of other cells.

    Returns:
        Pairs of a cell, and attribute names from there to the weight.
    """
    found: set[tuple[nn.Cell, tuple[str, ...]]] = set()
    waiting: list[tuple[Any, nn.Cell, bool, int]] = [(_method(cell, "construct"), cell, True, 0)]
    seen: set[tuple[int, int]] = set()
    while waiting:
        function, owner, is_method, depth = waiting.pop()
        code = getattr(function, "__code__", None)
        if code is None or (id(code), id(owner)) in seen or depth > _DEPTH:
            continue
        seen.add((id(code), id(owner)))
        for chain in chains(code, is_method):
            if chain[-1] in WEIGHTS and (len(chain) > 2 or owner is not cell):
                known = chain[0] == "self"
                found.add((owner, tuple(chain[1:]) if known else ("", chain[-1])))
            called = _called(owner, function, chain)
            if called is not None:
                waiting.append((*called, depth + 1))
    return found


def _method(cell: nn.Cell, name: str) -> Any:
    return next((c.__dict__[name] for c in type(cell).__mro__ if name in c.__dict__), None)


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
        value = function.__globals__.get(chain[0])
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
        Lists whose first entry is "self", the name of a global, or empty for any other value.
    """
    first = code.co_varnames[0] if code.co_argcount and is_method else None
    chain: list[str] = []
    steps = [step for step in dis.get_instructions(code) if step.opname not in _SKIPPED]
    for step, following in zip(steps, [*steps[1:], None]):
        asked = following is not None and following.opname in _READS
        harmless = following is not None and asked and following.argval in PROPERTIES
        if step.opname in _READS:
            chain = [*(chain or ["", ""]), str(step.argval)]
            if not (harmless and chain[-1] in WEIGHTS):
                yield chain
        elif step.opname.startswith("LOAD_FAST"):
            chain = ["self"] if step.argval == first else ["", ""]
        elif step.opname == "LOAD_GLOBAL":
            chain = [str(step.argval)]
            yield chain
        elif step.opname == "LOAD_CONST" and step.argval in WEIGHTS:
            yield [*(chain or ["", ""]), step.argval]
            chain = []
        else:
            chain = []
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from chains(constant, False)
