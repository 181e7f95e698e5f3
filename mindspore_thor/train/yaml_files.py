"""Reading recipes: strict YAML, inheritance from other recipes, and where each key came from."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mindspore_thor.errors import UserError

BASE_KEY = "base"
_CHOOSERS = ("name", "schedule")


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML in which ``1e-3`` is a number and a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} appears twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 wants a dot and a signed exponent in a float and reads 1e-3 as text; people do not.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


@dataclass
class Settings:
    """A tree of settings, with the source of every leaf for error messages.

    Attributes:
        tree: Nested mappings with text keys; leaves are plain YAML values.
        origins: Dotted key of a leaf -> where it was given (a file, or ``command line``).
    """

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def merge(self, other: Settings) -> None:
        """Lay ``other`` over this tree.

        A section whose ``name`` or ``schedule`` changes is replaced as a whole, because the options
        of one optimizer, model or schedule mean nothing to another.

        Args:
            other: The stronger settings.
        """
        for key, value in other.tree.items():
            mine = self.tree.get(key)
            if isinstance(value, dict) and isinstance(mine, dict) and not _switches(mine, value):
                self.tree[key] = {**mine, **value}
            else:
                self.tree[key] = value
        self.origins.update(other.origins)


def _switches(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return any(name in new and name in old and new[name] != old[name] for name in _CHOOSERS)


def dotted_leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``(dotted key, value)`` for every leaf of a nested mapping.

    Args:
        tree: Nested mappings.
        prefix: Put before each key.

    Yields:
        The key with dots between its parts, and the value.
    """
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from dotted_leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def parse_value(text: str, owner: str) -> Any:
    """Read one command-line value as YAML: numbers, booleans, null, lists, or text.

    Args:
        text: The value as typed.
        owner: Name of the option, for the message.

    Returns:
        The value.

    Raises:
        UserError: If the text is not a YAML value.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError:
        raise UserError(
            f"{owner}: cannot read the value {text!r}; quote text that has special characters"
        ) from None


def read_settings(path: Path) -> Settings:
    """Read a recipe and the recipes it is based on.

    ``base`` names one file or a list of files, relative to the file that says so; later ones win
    over earlier ones, and the file itself wins over all of them.

    Args:
        path: The recipe.

    Returns:
        The merged settings, without ``base``.

    Raises:
        UserError: If a file is missing, malformed, or based on itself.
    """
    return _read(path, ())


def _read(path: Path, chain: tuple[Path, ...]) -> Settings:
    resolved = path.resolve()
    if resolved in chain:
        loop = " -> ".join(item.name for item in (*chain, resolved))
        raise UserError(
            f"{path}: recipes are based on each other in a circle ({loop}); "
            f"remove one '{BASE_KEY}:'"
        )
    tree = _parse(path)
    merged = Settings()
    bases = tree.pop(BASE_KEY, [])
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str):
            raise UserError(f"{path}: base is {base!r}; give a recipe's name or a list")
        merged.merge(_read(path.parent / base, (*chain, resolved)))
    merged.merge(Settings(tree, {key: str(path) for key, _ in dotted_leaves(tree)}))
    return merged


def _parse(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file; check --config_path") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(
            f"{path}: cannot read the configuration ({reason}); give a readable YAML file"
        ) from None
    try:
        tree = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise UserError(f"{path}{line}: malformed YAML: {problem}; correct it there") from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict) or not _text_keys(tree):
        raise UserError(f"{path}: malformed configuration: expected 'section:' with keys below it")
    return tree


def _text_keys(tree: Any) -> bool:
    if not isinstance(tree, dict):
        return True
    return all(isinstance(key, str) and _text_keys(value) for key, value in tree.items())


def dump_yaml(tree: dict[str, Any]) -> str:
    """Return the settings as YAML text in their own order.

    Args:
        tree: Nested mappings of plain values.

    Returns:
        Text that ``read_settings`` reads back to the same tree.
    """
    return yaml.safe_dump(tree, sort_keys=False, default_flow_style=False, allow_unicode=True)
