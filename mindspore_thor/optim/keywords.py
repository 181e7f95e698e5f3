"""Which keywords a method has: what a configuration may set, and what a constructor takes."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from mindspore_thor.errors import UserError, quoted

# Keywords of the base class that only methods have whose own constructor names them.
_OWN = ("damping", "momentum", "weight_decay", "factor_interval", "inverse_interval")


_ELSEWHERE = {"lr": "learning_rate", "eps": "epsilon", "wd": "weight_decay"}
"""What other libraries call a keyword."""


def keywords_of(method: type, base: type, without: Iterable[str]) -> dict[str, inspect.Parameter]:
    """The keywords of a method's constructor.

    Args:
        method: its class; what its constructor does not name it hands to its base's.
        base: the base of all methods.
        without: keywords of the base that the method does not have.

    Returns:
        Keyword -> its parameter, with the default.
    """
    found: dict[str, inspect.Parameter] = {}
    for kind in method.__mro__:
        if not issubclass(kind, base) or "__init__" not in vars(kind):
            continue
        hidden = {*_OWN, *without, "label"} if kind is base else ()
        for name, parameter in list(inspect.signature(kind.__init__).parameters.items())[1:]:
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD and name not in hidden:
                found.setdefault(name, parameter)
    return found


def _some(names: Iterable[str], room: int = 180) -> str:
    """As many names as there is room for, and how many more there are."""
    all_names = list(names)
    shown = [name for i, name in enumerate(all_names) if len(", ".join(all_names[: i + 1])) <= room]
    more = len(all_names) - len(shown)
    return ", ".join(shown) + (f" and {more} more (docs/api.md)" if more else "")


def check_keywords(
    title: str, given: Mapping[str, Any], known: Mapping[str, inspect.Parameter]
) -> None:
    """Refuse keywords that a method does not have, and anything but a truth value for a switch.

    What other values mean to their method it checks itself; ``if switch:`` would take every text.

    Args:
        title: what to call the method.
        given: the keywords and their values.
        known: those that it has, with their defaults.

    Raises:
        UserError: for the first one that is not known, naming the nearest one, or is no switch.
    """
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name[:100], known, 1)
            if _ELSEWHERE.get(name) in known:
                near = [_ELSEWHERE[name]]
            remedy = f"did you mean {near[0]!r}?" if near else f"it has {_some(known)}"
            raise UserError(f"{title} has no option {quoted(name)}: {remedy}")
        if isinstance(known[name].default, bool) and not isinstance(value, bool):
            raise UserError(f"{name}={quoted(value)}: give true or false")
