"""Which layers' weights a network also uses outside of the layers themselves.

A table that a parent multiplies with, or the ``out_proj`` of ``nn.MultiheadAttention``, whose
weight goes into a function and which is never called: the statistics of the layer's own operator
know nothing of such uses. They are found in the code that a network's cells run: the ``construct``
of every cell and the methods and functions that it calls are searched for a layer's parameter that
somebody else reads.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

from mindspore import nn

WEIGHTS = ("weight", "embedding_table", "gamma")
_READS = ("LOAD_ATTR", "LOAD_METHOD")
_DEPTH = 20


def used_outside(net: nn.Cell) -> dict[int, str]:
    """Cells whose weight is read by another cell.

    Where it cannot be told which cell is meant (a loop over layers), all below the reader are.

    Args:
        net: any network.

    Returns:
        id of the cell -> name of the class that reads its weight.
    """
    found: dict[int, str] = {}
    for _, cell in net.cells_and_names():
        for path in _weights_read_by(cell):
            for user in _meant(cell, path):
                if user is not cell:
                    found.setdefault(id(user), type(cell).__name__)
    return found


def _meant(cell: nn.Cell, path: tuple[str, ...]) -> Iterator[nn.Cell]:
    """The cells that own what ``self.<path>`` reads; an empty name stands for anything."""
    *way, weight = path
    owner: Any = cell
    for name in way:
        owner = getattr(owner, name, None) if name else None
        if not isinstance(owner, nn.Cell):
            break
    else:
        yield owner
        return
    for _, below in cell.cells_and_names():
        if weight in getattr(below, "_params", {}):
            yield below


def _weights_read_by(cell: nn.Cell) -> set[tuple[str, ...]]:
    """What a cell's code reads of other cells: attribute names from ``self`` to the weight."""
    found: set[tuple[str, ...]] = set()
    waiting: list[tuple[Any, bool, int]] = [(_method(cell, "construct"), True, 0)]
    seen: set[int] = set()
    while waiting:
        function, is_method, depth = waiting.pop()
        code = getattr(function, "__code__", None)
        if code is None or id(code) in seen or depth > _DEPTH:
            continue
        seen.add(id(code))
        for chain in _chains(code, is_method):
            if chain[-1] in WEIGHTS and len(chain) > 2:
                found.add(tuple(chain[1:]) if chain[0] == "self" else ("", chain[-1]))
            called = _called(cell, function, chain)
            if called is not None:
                waiting.append((called, chain[0] == "self", depth + 1))
    return found


def _method(cell: nn.Cell, name: str) -> Any:
    return next((c.__dict__[name] for c in type(cell).__mro__ if name in c.__dict__), None)


def _called(cell: nn.Cell, function: FunctionType, chain: list[str]) -> Any:
    """A method of the cell, or a function of the user's, that the code may call."""
    if chain[0] == "self" and len(chain) == 2:
        value = _method(cell, chain[1])
    elif len(chain) == 1:
        value = function.__globals__.get(chain[0])
        if str(getattr(value, "__module__", "")).startswith("mindspore."):
            return None
    else:
        return None
    return value if isinstance(value, FunctionType) else None


def _chains(code: CodeType, is_method: bool) -> Iterator[list[str]]:
    """Every run of attribute reads in some code: ["self", "emb", "embedding_table"].

    The first entry is "self", the name of a global, or empty for any other value.
    """
    first = code.co_varnames[0] if code.co_argcount and is_method else None
    chain: list[str] = []
    for step in dis.get_instructions(code):
        if step.opname in _READS and chain:
            chain = [*chain, str(step.argval)]
            yield chain
        elif step.opname in _READS:
            chain = ["", "", str(step.argval)]
            yield chain
        elif step.opname.startswith("LOAD_FAST"):
            chain = ["self"] if step.argval == first else ["", ""]
        elif step.opname == "LOAD_GLOBAL":
            chain = [str(step.argval)]
            yield chain
        elif step.opname not in ("PRECALL", "CACHE", "EXTENDED_ARG", "NOP"):
            chain = []
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _chains(constant, False)
