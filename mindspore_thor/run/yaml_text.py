"""YAML 1.2's core schema: text to plain values and back.

PyYAML splits the text into events; the values are made here. Its own loader reads YAML 1.1, where
``1:30`` is 90, ``012`` is 10, ``on`` is true and ``1e-3`` is text, and it follows nesting and
anchors without a limit.
"""

from __future__ import annotations

import copy
import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from mindspore_thor.errors import quoted

MAX_CHARACTERS = 200_000
"""Longest text, and most characters of a recipe together with those it is based on."""

MAX_DEPTH = 20
MAX_VALUES = 20_000
"""Most values of a text, each use of an anchor counted with all that it stands for."""

_MAX_NUMBER = 100  # characters; float64 has 17 digits
_WHOLE = 2**63

_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS: dict[str, type] = {
    f"{_TAG}{name}": kind
    for name, kind in (
        ("str", str),
        ("int", int),
        ("float", float),
        ("bool", bool),
        ("null", type(None)),
    )
}


class MalformedYaml(Exception):
    """A text that is no YAML, or more of it than a recipe needs.

    Args:
        problem: What is wrong, in a few words.
        line: Where, from 1; None where no line is to blame.
    """

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line


def load_yaml(text: str) -> Any:
    """Read one YAML document.

    Args:
        text: The document.

    Returns:
        Mappings with text keys, lists, text, numbers, booleans and None.

    Raises:
        MalformedYaml: For what is not YAML 1.2's core schema, a repeated key, a number beyond 64
            bits, or too much of anything.
    """
    if len(text) > MAX_CHARACTERS:
        raise MalformedYaml(f"it has more than {MAX_CHARACTERS} characters")
    values = _Values()
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            values.take(event)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        # A ReaderError has no mark and says it in its first line.
        problem = getattr(error, "problem", None) or str(error).split("\n", 1)[0]
        raise MalformedYaml(problem, mark.line + 1 if mark is not None else None) from None
    except (ValueError, OverflowError):  # PyYAML on "\UFFFFFFFF", or on %YAML 999...
        raise MalformedYaml("an escape or a directive has a number out of range") from None
    return values.root


@dataclass
class _Open:
    """A list or mapping whose end has not come yet.

    Attributes:
        value: What it holds so far.
        anchor: Its anchor, or None.
        before: How many values were counted before it.
        height: Levels of collections that it is known to have, its own included.
        key: The key that waits for its value, or None.
    """

    value: dict[str, Any] | list[Any]
    anchor: str | None
    before: int
    height: int = 1
    key: str | None = None


@dataclass(frozen=True)
class _Anchored:
    """What an anchor stands for, how many values and how many levels of collections that is."""

    value: Any
    size: int
    height: int


class _Values:
    """Builds the values from PyYAML's events, without recursion."""

    def __init__(self) -> None:
        self.root: Any = None
        self._documents = 0
        self._count = 0
        self._open: list[_Open] = []
        # None while the collection with this anchor is still open.
        self._anchors: dict[str, _Anchored | None] = {}

    def take(self, event: yaml.Event) -> None:
        """Go on by one event.

        Args:
            event: From ``yaml.parse``.

        Raises:
            MalformedYaml: If it cannot be a part of plain values.
        """
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                _fail(event, "a second document begins; a recipe is a single one")
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.ScalarEvent):
            self._grow(event, 1)
            value = _scalar(event)
            if event.anchor is not None:
                self._anchors[event.anchor] = _Anchored(value, 1, 0)
            self._put(value, 0, event)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._begin(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end(event)

    def _grow(self, event: yaml.Event, size: int, height: int = 0) -> None:
        self._count += size
        if self._count > MAX_VALUES:
            _fail(event, f"more than {MAX_VALUES} values, anchors expanded")
        if len(self._open) + height > MAX_DEPTH:
            _fail(event, f"more than {MAX_DEPTH} levels of nesting")

    def _alias(self, event: yaml.AliasEvent) -> None:
        name = quoted(event.anchor, 40)
        if event.anchor not in self._anchors:
            _fail(event, f"alias {name} has no anchor before it")
        found = self._anchors[event.anchor]
        if found is None:
            _fail(event, f"anchor {name} contains itself")
        self._grow(event, found.size, found.height)
        # A copy, so that the values are a tree.
        self._put(copy.deepcopy(found.value), found.height, event)

    def _begin(self, event: yaml.CollectionStartEvent) -> None:
        mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", f"{_TAG}{'map' if mapping else 'seq'}"):
            _fail(event, f"tag {quoted(event.tag, 60)} has no meaning here; leave it out")
        before = self._count
        self._grow(event, 1, 1)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._open.append(_Open({} if mapping else [], event.anchor, before))

    def _end(self, event: yaml.CollectionEndEvent) -> None:
        done = self._open.pop()
        if done.anchor is not None:
            size = self._count - done.before
            self._anchors[done.anchor] = _Anchored(done.value, size, done.height)
        self._put(done.value, done.height, event)

    def _put(self, value: Any, height: int, event: yaml.Event) -> None:
        if not self._open:
            self.root = value
            return
        owner = self._open[-1]
        owner.height = max(owner.height, height + 1)
        if isinstance(owner.value, list):
            owner.value.append(value)
        elif owner.key is not None:
            owner.value[owner.key] = value
            owner.key = None
        else:
            owner.key = _key(value, owner.value, event)


def _fail(event: yaml.Event, problem: str) -> NoReturn:
    mark = event.start_mark
    raise MalformedYaml(problem, mark.line + 1 if mark is not None else None)


def _key(value: Any, mapping: dict[str, Any], event: yaml.Event) -> str:
    if not isinstance(value, str):
        _fail(event, f"key {quoted(value, 60)} is not text")
    if value in mapping:
        _fail(event, f"key {quoted(value, 60)} appears twice")
    if value == "<<":
        _fail(event, "'<<' is not known in YAML 1.2; repeat the keys, or use 'base:'")
    return value


def _scalar(event: yaml.ScalarEvent) -> Any:
    text = event.value
    if event.tag is None:
        return _plain(text, event) if event.implicit[0] else text
    kind = str if event.tag == "!" else _SCALAR_TAGS.get(event.tag)
    if kind is None:
        _fail(event, f"tag {quoted(event.tag, 60)} has no meaning here; leave it out")
    if kind is str:
        return text
    value = _plain(text, event)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        _fail(event, f"{quoted(text, 60)} does not fit its tag {event.tag.replace(_TAG, '!!')}")
    return value


def _plain(text: str, event: yaml.Event) -> Any:
    """Return the value of unquoted text."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        _check_length(text, event)
        value = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        if abs(value) >= _WHOLE:
            _fail(event, f"the whole number {quoted(text, 60)} is out of range (below 2^63)")
        return value
    if _FLOAT.fullmatch(text):
        _check_length(text, event)
        number = float(text)
        mantissa = re.split("[eE]", text)[0]
        if math.isinf(number) or (number == 0 and mantissa.strip("+-.0")):
            _fail(event, f"the number {quoted(text, 60)} is out of range (1e-308 to 1e308)")
        return number
    if _SPECIAL.fullmatch(text):
        return float(text.lower().replace(".", ""))
    return text


def _check_length(text: str, event: yaml.Event) -> None:
    if len(text) > _MAX_NUMBER:
        _fail(event, f"a number of {len(text)} characters is out of range")


class _Dumper(yaml.SafeDumper):
    """Quotes text that is a number in YAML 1.1 or 1.2; writes a value out wherever it occurs."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, data: str) -> yaml.ScalarNode:
        # In single quotes PyYAML would write these rare line breaks as they are, and lose them.
        style = '"' if re.search("[\x85\u2028\u2029\ufeff]", data) else None
        return self.represent_scalar(f"{_TAG}str", data, style=style)


_Dumper.add_representer(str, _Dumper.text)
for _name, _pattern in (("int", _INT), ("float", _FLOAT)):
    _Dumper.add_implicit_resolver(
        f"{_TAG}{_name}", re.compile(f"(?:{_pattern.pattern})$"), list("-+.0123456789")
    )


def dump_yaml(tree: dict[str, Any]) -> str:
    """Return settings as YAML text in their own order.

    Args:
        tree: Nested mappings of plain values.

    Returns:
        Text that :func:`load_yaml` reads back to the same tree.
    """
    return yaml.dump(
        tree, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True
    )
