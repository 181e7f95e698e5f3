"""Declaring and checking single configuration options."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable
from typing import Any

from mindspore_thor.errors import UserError, quoted
from mindspore_thor.optim.checks import FLOAT32, float32_note

_LONGEST_KEY = 100
_KIND_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    tuple: "a rising list of whole numbers",
}
_MOST_ITEMS = 100


def option(
    default: Any,
    kind: type,
    help: str,
    *,
    low: float | None = None,
    most: float | None = None,
    below: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
    optional: bool = False,
    switch: bool = False,
) -> Any:
    """Declare one field of a configuration section.

    Args:
        default: Value where the recipe is silent.
        kind: ``int``, ``float``, ``bool``, ``str``, or ``tuple`` for a rising list of whole
            numbers, to each of which the limits apply.
        help: One line for ``--help``.
        low: Smallest allowed value.
        most: Largest allowed value.
        below: The value must be smaller than this.
        above: The value must be greater than this.
        choices: The allowed texts.
        optional: Whether null is allowed.
        switch: Whether true and false are allowed beside ``kind``.

    Returns:
        A dataclass field.
    """
    metadata = {
        "kind": kind,
        "help": help,
        "low": low,
        "most": most,
        "below": below,
        "above": above,
        "choices": choices,
        "optional": optional,
        "switch": switch,
    }
    return dataclasses.field(default=default, metadata=metadata)


def checked(key: str, value: Any, metadata: Any, origin: str) -> Any:
    """Return ``value`` in the declared type, or raise.

    Args:
        key: Dotted key, for the message.
        value: What the recipe or the command line gave.
        metadata: The metadata that ``option`` attached.
        origin: Where the value was given.

    Returns:
        The value; a whole number becomes a float where one is asked for.

    Raises:
        UserError: If the type or the range is wrong.
    """
    kind = metadata["kind"]
    if value is None and metadata["optional"]:
        return None
    if metadata["switch"] and isinstance(value, bool):
        return value
    given = value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**63 else math.inf
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    good = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if good and kind is tuple:
        good = _rising(value, metadata)
    if good and kind in (int, float):
        good = _within(value, metadata)
    if good and kind is str:
        good = bool(value.strip()) and "\0" not in value
    if good and metadata["choices"]:
        good = value in metadata["choices"]
    if not good:
        raise UserError(
            f"{origin}: {key} is {quoted(given)}; give {_wanted(metadata)}{float32_note(given)}"
        )
    return value


def _rising(values: tuple, metadata: Any) -> bool:
    whole = all(isinstance(item, int) and not isinstance(item, bool) for item in values)
    return (
        whole
        and 0 < len(values) <= _MOST_ITEMS
        and all(_within(item, metadata) for item in values)
        and all(later > earlier for earlier, later in zip(values, values[1:]))
    )


def _within(value: float, metadata: Any) -> bool:
    if isinstance(value, float) and not (value == 0 or FLOAT32[0] <= abs(value) <= FLOAT32[1]):
        return False  # among them NaN: MindSpore computes with zero or infinity instead
    low, above, most, below = (metadata[name] for name in ("low", "above", "most", "below"))
    return (
        (low is None or value >= low)
        and (above is None or value > above)
        and (most is None or value <= most)
        and (below is None or value < below)
    )


def _wanted(metadata: Any) -> str:
    if metadata["choices"]:
        text = "one of " + ", ".join(metadata["choices"])
    else:
        text = _KIND_NAMES[metadata["kind"]]
        limits = [
            f"{words} {_figure(metadata[name])}"
            for name, words in (
                ("low", "of at least"),
                ("above", "above"),
                ("most", "at most"),
                ("below", "below"),
            )
            if metadata[name] is not None
        ]
        text = " ".join([text, " and ".join(limits)]).strip()
    if metadata["kind"] is str and not metadata["choices"]:
        text += " that is not empty and has no NUL"
    if metadata["switch"]:
        text = f"true, false or {text}"
    return text + (" or null" if metadata["optional"] else "")


def _figure(limit: float) -> str:
    return str(limit) if isinstance(limit, int) else f"{limit:g}"


def nearest(key: str, valid: Iterable[str]) -> str:
    """Return the valid key that looks most like ``key``.

    Args:
        key: An unknown dotted key; its section may be missing or wrong.
        valid: The keys to choose from, at least one.

    Returns:
        The closest key, judged by the whole key or by its last part, whichever fits better.
    """
    key = key[:_LONGEST_KEY]  # comparing takes time by the square of the length
    last = key.rsplit(".", 1)[-1]

    def likeness(candidate: str) -> float:
        whole = difflib.SequenceMatcher(None, key, candidate).ratio()
        part = difflib.SequenceMatcher(None, last, candidate.rsplit(".", 1)[-1]).ratio()
        return max(whole, part) + 0.1 * whole

    return max(sorted(valid), key=likeness)
