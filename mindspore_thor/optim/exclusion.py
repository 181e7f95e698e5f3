"""Which layers a user wants the method to leave alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

from mindspore_thor.errors import UserError, quoted
from mindspore_thor.layers.coverage import CoveredLayer

LAST = "last"
"""What ``exclude`` calls the last linear layer."""

Exclude = Union[str, Sequence[str], None]


def check_exclude(exclude: Any) -> str | tuple[str, ...]:
    """``exclude`` as "last", or as names.

    Raises:
        UserError: for something else.
    """
    if exclude is None:
        return ()
    if isinstance(exclude, str) and exclude == LAST:
        return LAST
    named = isinstance(exclude, Sequence) and not isinstance(exclude, str) and len(exclude) > 0
    if not named or any(not isinstance(name, str) or not name for name in exclude):
        raise UserError(
            f"exclude={quoted(exclude)}: give {LAST!r}, a list of layers' names, or None"
        )
    return tuple(exclude)


def excluded(
    exclude: str | tuple[str, ...], layers: Sequence[CoveredLayer], method: str
) -> dict[str, str]:
    """What is left out: name of the layer -> what the report says of it.

    Args:
        exclude: as :func:`check_exclude` returns it.
        layers: all that the method could cover.
        method: its name, for the message.

    Raises:
        UserError: for a name that is none of them, nor has one below it.
    """
    if exclude == LAST:
        last = max(layers, key=lambda layer: layer.weight) if len(layers) > 1 else None
        return {} if last is None else {last.name: "last layer: plain gradient"}
    found: dict[str, str] = {}
    for name in exclude:
        below = [x.name for x in layers if x.name == name or x.name.startswith(f"{name}.")]
        if not below:
            known = ", ".join(layer.name for layer in layers)[:150]
            raise UserError(f"exclude={quoted(name)} is no layer that {method} covers: {known}")
        found.update(dict.fromkeys(below, "excluded: plain gradient"))
    return found
