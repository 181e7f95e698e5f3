"""The resolved configuration as ``--print_config`` shows it: YAML with where each value is from."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from mindspore_thor.run.sections import Config
from mindspore_thor.run.yaml_text import dump_yaml


def annotated_yaml(config: Config, origins: Mapping[str, str]) -> str:
    """Return a configuration as a recipe of its own, each value with its origin in a comment.

    Args:
        config: The configuration.
        origins: Dotted key -> where its value was given; the others are called defaults.

    Returns:
        YAML text that reads back to the same configuration.
    """
    return "".join(_lines(config.to_dict(), origins, ""))


def _lines(tree: Mapping[str, Any], origins: Mapping[str, str], prefix: str) -> list[str]:
    lines = []
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            inner = "".join(_lines(value, origins, f"{dotted}."))
            lines.append(f"{key}:\n{textwrap.indent(inner, '  ')}")
            continue
        text = dump_yaml({key: value})
        first, rest = text.split("\n", 1)
        # Long text goes on in the next lines, where a comment would break into it.
        if not rest or isinstance(value, list):
            text = f"{first}  # {origins.get(dotted, 'default')}\n{rest}"
        lines.append(text)
    return lines
