"""Trees of settings from YAML files, laid over each other; where each key came from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mindspore_thor.errors import UserError, quoted
from mindspore_thor.run.yaml_text import MAX_CHARACTERS, MalformedYaml, load_yaml

_CHOOSERS = ("name", "schedule")


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
        of one optimizer, model or schedule mean nothing to another; so is one within a section.

        Args:
            other: The stronger settings.
        """
        for key, value in other.tree.items():
            self.tree[key] = _over(self.tree.get(key), value)
        # Without those that went with a replaced section: a default may stand there now.
        left = {key for key, _ in dotted_leaves(self.tree)}
        origins = {**self.origins, **other.origins}
        self.origins = {key: where for key, where in origins.items() if key in left}


def _over(old: Any, new: Any) -> Any:
    if isinstance(new, dict) and isinstance(old, dict) and not _switches(old, new):
        return {**old, **{key: _over(old.get(key), value) for key, value in new.items()}}
    return new


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


def parse_tree(text: str, shown: str) -> dict[str, Any]:
    """Read a YAML file's text as sections with keys below them.

    Args:
        text: From :func:`read_text`.
        shown: What messages call the file.

    Returns:
        The tree; an empty one for an empty text.

    Raises:
        UserError: If it is malformed.
    """
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
        raise UserError(f"{shown}: malformed configuration: expected 'section:' with keys below it")
    return tree


def read_text(path: Path, shown: str) -> str:
    """Return what a configuration file holds.

    Args:
        path: The file.
        shown: What messages call it.

    Raises:
        UserError: If it is missing, too long or no text.
    """
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
