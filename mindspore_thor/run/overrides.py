"""Overrides of a recipe on the command line: ``--any.key value``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mindspore_thor.errors import UserError, quoted
from mindspore_thor.run.yaml_files import Settings, dotted_leaves, parse_value
from mindspore_thor.run.yaml_text import MAX_DEPTH

COMMAND_LINE = "command line"


def parse_overrides(arguments: Sequence[str]) -> Settings:
    """Read ``--any.key value`` and ``--any.key=value`` pairs.

    Args:
        arguments: What is left of the command line.

    Returns:
        The settings that they spell.

    Raises:
        UserError: If an argument is not part of such a pair.
    """
    settings = Settings()
    rest = list(reversed(arguments))
    while rest:
        word = rest.pop()
        if not word.startswith("--") or len(word) < 3:
            raise UserError(
                f"unexpected argument {quoted(word)}; overrides look like --any.key value"
            )
        flag, has_value, text = word.partition("=")
        if flag.count(".") > MAX_DEPTH or len(flag) > 200:
            raise UserError(f"unknown key {quoted(flag)}; keys look like --section.key, see --help")
        if not has_value:
            if not rest or rest[-1].startswith("--"):
                raise UserError(f"{flag} needs a value: {flag} VALUE")
            text = rest.pop()
        _assign(settings, flag, parse_value(text, flag))
    return settings


def _assign(settings: Settings, flag: str, value: Any) -> None:
    *sections, last = flag[2:].split(".")
    node = settings.tree
    for part in sections:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise UserError(f"{flag} contradicts another override of the same section")
    if isinstance(node.get(last), dict):
        raise UserError(f"{flag} contradicts another override of the same section")
    node[last] = value
    for key, _ in dotted_leaves({flag[2:]: value}):
        settings.origins[key] = COMMAND_LINE
