"""Recipe files: one for a model and a data set, with its methods side by side.

The sections of a file hold for all its methods, and those below ``methods: NAME:`` are laid over
them where that method is chosen. ``base:`` starts from another file's recipe with the same method;
the shipped files use it for one level only. A file without methods is a recipe by itself, as every
run folder's ``config.yaml`` is one.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindspore_thor.errors import UserError, quoted, shortened
from mindspore_thor.run.options import nearest
from mindspore_thor.run.yaml_files import Settings, dotted_leaves, parse_tree, read_text
from mindspore_thor.run.yaml_text import MAX_CHARACTERS

BASE_KEY = "base"
METHODS_KEY = "methods"

DEFAULT_METHOD = "thor"
"""What is chosen where ``--method`` is not given and the recipe has it."""

MAX_FILES = 50
"""Most recipes that one recipe may be based on, each counted as often as it is named."""

_LONGEST_NAME = 255  # of a file, on all common file systems
_METHOD_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")  # becomes a part of the run folder's name


@dataclass(frozen=True)
class _File:
    """One file of a recipe.

    Attributes:
        shown: What messages call it.
        common: Its sections for all methods.
        methods: Method -> the sections laid over them.
        bases: The files it is based on; later ones win.
        fixed: The method that the file's old name chose, or None.
    """

    shown: str
    common: dict[str, Any]
    methods: dict[str, dict[str, Any]]
    bases: tuple[_File, ...]
    fixed: str | None = None

    def names(self) -> list[str]:
        """The methods to choose from: its bases' first."""
        if self.fixed is not None:
            return []
        inherited = [name for base in self.bases for name in base.names()]
        return list(dict.fromkeys([*inherited, *self.methods]))

    def settings(self, method: str | None) -> Settings:
        """Everything that the file and its bases say for a method, merged."""
        method = method if self.fixed is None else self.fixed
        merged = Settings()
        for base in self.bases:
            merged.merge(base.settings(method))
        merged.merge(_settings(self.common, self.shown))
        if method is not None and method in self.methods:
            origin = f"{self.shown} (method {method})"
            merged.merge(_settings(self.methods[method], origin))
        return merged


def _settings(tree: dict[str, Any], origin: str) -> Settings:
    return Settings(dict(tree), {key: origin for key, _ in dotted_leaves(tree)})


def read_recipe(path: Path, method: str | None = None) -> tuple[Settings, str]:
    """Read a recipe for one of its methods.

    Args:
        path: The file. Where there is none, ``<model>_<data>_<method>.yaml``, as recipes were
            called before, stands for ``<model>_<data>.yaml`` with that method.
        method: Which of its methods; None for ``thor``, or the only one.

    Returns:
        The merged settings, and the recipe's name: that of the file, with the method's.

    Raises:
        UserError: If a file is missing, malformed, or based on itself, or if it does not have the
            method, or no default one.
    """
    file = _Reader().read(path)
    chosen = _choose(file, method)
    settings = file.settings(chosen)
    return settings, path.stem if chosen is None else f"{path.stem}_{chosen}"


def _choose(file: _File, method: str | None) -> str | None:
    """The method to take; None where there is nothing to choose."""
    names = file.names()
    known = shortened(", ".join(names), 140)
    if names:
        for name in (method, (method or "").lower()):  # THOR is thor here
            if name in names:
                return name
        if method is not None:
            raise UserError(
                f"{file.shown}: no method {quoted(method, 40)}; did you mean "
                f"{nearest(method, names)!r}? (--method: one of {known})"
            )
        if DEFAULT_METHOD in names:
            return DEFAULT_METHOD
        if len(names) > 1:
            raise UserError(
                f"{file.shown}: no method {DEFAULT_METHOD!r}, the default; choose with --method "
                f"one of {known}"
            )
        return names[0]
    if method in (None, file.fixed):
        return None
    if file.fixed is not None:
        raise UserError(
            f"--method is {quoted(method, 40)}, but the recipe's name stands for {file.shown} with "
            f"--method {file.fixed}; give {file.shown} as --config_path"
        )
    raise UserError(
        f"{file.shown}: no '{METHODS_KEY}:' to choose {quoted(method, 40)} from; leave out --method"
    )


def old_names(path: Path) -> Iterator[tuple[Path, str]]:
    """Yield what a name of the form ``<model>_<data>_<method>.yaml`` may stand for.

    Args:
        path: A recipe that does not exist.

    Yields:
        The file, and the method; the file with the longest name first.
    """
    words = path.stem.split("_")
    if len(path.name) > _LONGEST_NAME:
        return
    for cut in range(len(words) - 1, 0, -1):
        stem, method = "_".join(words[:cut]), "_".join(words[cut:])
        if stem and method:
            yield path.with_name(stem + path.suffix), method


class _Reader:
    """Reads a recipe and its bases, within one limit for all of them together."""

    def __init__(self) -> None:
        self._files = 0
        self._characters = 0

    def read(self, path: Path, chain: tuple[Path, ...] = ()) -> _File:
        """Return a recipe with those it is based on.

        Args:
            path: The recipe.
            chain: The recipes that lead to it, resolved.
        """
        if os.path.exists(path):
            return self._read(path, chain)
        others = []
        for candidate, method in old_names(path):
            if candidate.is_file():
                file = self._read(candidate, chain)
                if method in file.names():
                    return dataclasses.replace(file, fixed=method)
                others.append((file.shown, file.names()))
        for shown, names in others:
            if names:
                raise UserError(
                    f"{_shown(path)}: no such configuration file; {shown} has the methods "
                    f"{shortened(', '.join(names), 80)} (--method)"
                )
        return self._read(path, chain)

    def _read(self, path: Path, chain: tuple[Path, ...]) -> _File:
        shown = _shown(path)
        tree = self._parse(path, shown)
        resolved = path.resolve()
        if resolved in chain:
            loop = " -> ".join(item.name for item in (*chain, resolved))
            raise UserError(
                f"{shown}: recipes are based on each other in a circle ({loop}); "
                f"remove one '{BASE_KEY}:'"
            )
        methods = _methods(tree.pop(METHODS_KEY, None), shown)
        named = tree.pop(BASE_KEY, [])
        bases = []
        for base in named if isinstance(named, list) else [named]:
            if not isinstance(base, str) or not base.strip():
                raise UserError(
                    f"{shown}: {BASE_KEY} is {quoted(base)}; give a recipe's name or a list"
                )
            bases.append(self.read(path.parent / base, (*chain, resolved)))
        return _File(shown, tree, methods, tuple(bases))

    def _parse(self, path: Path, shown: str) -> dict[str, Any]:
        self._files += 1
        if self._files > MAX_FILES + 1:
            raise UserError(
                f"{shown}: more than {MAX_FILES} recipes are based on each other; "
                f"write fewer '{BASE_KEY}:'"
            )
        text = read_text(path, shown)
        self._characters += len(text)
        if self._characters > MAX_CHARACTERS:
            raise UserError(
                f"{shown}: this recipe, with those it is based on, has more than {MAX_CHARACTERS} "
                "characters; give a shorter one"
            )
        return parse_tree(text, shown)


def _shown(path: Path) -> str:
    return shortened(str(path), 120)


def _methods(value: Any, shown: str) -> dict[str, dict[str, Any]]:
    """Check the section ``methods``; a method that adds nothing may be left empty."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not value:
        raise UserError(
            f"{shown}: {METHODS_KEY} is {quoted(value)}; give methods with sections below each"
        )
    for name, sections in value.items():
        if _METHOD_NAME.fullmatch(name) is None:
            raise UserError(
                f"{shown}: {METHODS_KEY} has {quoted(name)}; give a name of letters, digits, '_' "
                "and '-'"
            )
        if not isinstance(sections, (dict, type(None))):
            raise UserError(
                f"{shown}: {METHODS_KEY}.{name} is {quoted(sections)}; give "
                "sections with keys below them"
            )
    return {name: sections or {} for name, sections in value.items()}
