"""Reading recipes: inheritance from other recipes, and where each key came from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mindspore_thor.errors import UserError, quoted, shortened
from mindspore_thor.run.yaml_text import MAX_CHARACTERS, MalformedYaml, load_yaml

BASE_KEY = "base"
_CHOOSERS = ("name", "schedule")

MAX_FILES = 50
"""Most recipes that one recipe may be based on, each counted as often as it is named."""


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
    """Yield ``(dotted key, value)`` for every leaf of a nested mapping; an empty one is a leaf.

    Args:
        tree: Nested mappings.
        prefix: Put before each key.

    Yields:
        The key with dots between its parts, and the value.
    """
    for key, value in tree.items():
        if isinstance(value, dict) and value:
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
        return load_yaml(text)
    except MalformedYaml as error:
        raise UserError(
            f"{owner}: cannot read the value {quoted(text)}: {error.problem}; correct it, or quote "
            "text that has special characters"
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
    return _Reader().read(path)


class _Reader:
    """Reads a recipe and its bases, within one limit for all of them together."""

    def __init__(self) -> None:
        self._files = 0
        self._characters = 0

    def read(self, path: Path, chain: tuple[Path, ...] = ()) -> Settings:
        """Return the merged settings of a recipe.

        Args:
            path: The recipe.
            chain: The recipes that lead to it, resolved.
        """
        shown = shortened(str(path), 120)
        tree = self._parse(path, shown)
        resolved = path.resolve()
        if resolved in chain:
            loop = " -> ".join(item.name for item in (*chain, resolved))
            raise UserError(
                f"{shown}: recipes are based on each other in a circle ({loop}); "
                f"remove one '{BASE_KEY}:'"
            )
        merged = Settings()
        bases = tree.pop(BASE_KEY, [])
        for base in bases if isinstance(bases, list) else [bases]:
            if not isinstance(base, str) or not base.strip():
                raise UserError(
                    f"{shown}: {BASE_KEY} is {quoted(base)}; give a recipe's name or a list"
                )
            merged.merge(self.read(path.parent / base, (*chain, resolved)))
        merged.merge(Settings(tree, {key: shown for key, _ in dotted_leaves(tree)}))
        return merged

    def _parse(self, path: Path, shown: str) -> dict[str, Any]:
        self._files += 1
        if self._files > MAX_FILES + 1:
            raise UserError(
                f"{shown}: more than {MAX_FILES} recipes are based on each other; "
                f"write fewer '{BASE_KEY}:'"
            )
        text = _text(path, shown)
        self._characters += len(text)
        if self._characters > MAX_CHARACTERS:
            raise UserError(
                f"{shown}: this recipe, with those it is based on, has more than {MAX_CHARACTERS} "
                "characters; give a shorter one"
            )
        try:
            tree = load_yaml(text)
        except MalformedYaml as error:
            line = f":{error.line}" if error.line is not None else ""
            raise UserError(
                f"{shown}{line}: malformed YAML: {error.problem}; correct it there"
            ) from None
        if tree is None:
            tree = {}
        if not isinstance(tree, dict):
            raise UserError(
                f"{shown}: malformed configuration: expected 'section:' with keys below it"
            )
        return tree


def _text(path: Path, shown: str) -> str:
    """Return what a file holds."""
    try:
        with path.open("rb") as file:
            content = file.read(4 * MAX_CHARACTERS + 1)  # a device may have no end
        if len(content) <= 4 * MAX_CHARACTERS:  # UTF-8 has up to four bytes a character
            return content.decode("utf-8")
        reason = f"more than {MAX_CHARACTERS} characters"
    except FileNotFoundError:
        raise UserError(f"{shown}: no such configuration file; check --config_path") from None
    except UnicodeDecodeError:
        reason = "not UTF-8 text"
    except OSError as error:
        reason = str(error.strerror)
    except ValueError:
        reason = "no path has a NUL character"
    raise UserError(f"{shown}: cannot read the configuration ({reason}); give a readable YAML file")
