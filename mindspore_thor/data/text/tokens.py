"""Encoded text with access to any sentence, in memory or mapped from a file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mindspore_thor.data.text.lines import Side
from mindspore_thor.data.text.training import TOKENS_FOLDER, held_tokens
from mindspore_thor.data.text.vocabulary import UNKNOWN, Vocabulary
from mindspore_thor.files import write_file

_FORMAT = 1
_MAGIC = b"MTtokens"
_LINES = 4096  # encoded together
_CHARACTERS = 1 << 22


class Tokens:
    """The pieces of all lines of one side, without start and end sign.

    Args:
        values: All pieces one after the other, uint16 or int32; may be mapped from a file.
        lengths: Pieces of each line, [n].
        unknown: How many pieces are unknown.
    """

    def __init__(self, values: np.ndarray, lengths: np.ndarray, unknown: int) -> None:
        self._values = values
        self.lengths = lengths
        self.unknown = unknown
        self.total = len(values)
        self._ends = np.cumsum(lengths, dtype=np.int64)

    def __len__(self) -> int:
        """Return the number of lines."""
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the pieces of a line, [length]."""
        end = self._ends[index]
        return self._values[end - self.lengths[index] : end]


def open_tokens(side: Side, vocabulary: Vocabulary, folder: Path, name: str) -> Tokens:
    """Encode a side, or find it encoded.

    One pass over the text, which is never held whole: the pieces go to a file (two bytes each with
    up to 65,536 pieces, four beyond) that is mapped into memory afterwards. It is used again as
    long as the text's size, time of change and ends, and the vocabulary, are the same.

    Args:
        side: The lines.
        vocabulary: Encodes them.
        folder: The folder of the vocabulary.
        name: Name of the file in it, without suffix.

    Raises:
        UserError: The text cannot be read, or the file not be written.
    """
    key = side.key()
    if key is None:
        values, lengths, unknown = [], [], 0
        for part, counts in _encoded(side, vocabulary):
            values.append(part)
            lengths.append(counts)
            unknown += _unknown(part)
        if not values:
            return Tokens(np.empty(0, np.int32), np.empty(0, np.int32), 0)
        return Tokens(np.concatenate(values), np.concatenate(lengths), unknown)
    key = {"format": _FORMAT, "vocabulary": vocabulary.fingerprint, **key}
    path = folder / TOKENS_FOLDER / f"{name}.tokens"
    tokens = _mapped(path, key)
    if tokens is None:
        with held_tokens(folder):
            tokens = _mapped(path, key)  # another process may have made it meanwhile
            if tokens is None:
                write_file(path, _content(side, vocabulary, key), 2 * key["size"])
                tokens = _mapped(path, key)
    assert tokens is not None
    return tokens


def _encoded(side: Side, vocabulary: Vocabulary) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Return pieces and lengths of the lines, some thousand of them at a time."""
    kind = np.uint16 if vocabulary.size <= 1 << 16 else np.int32
    for lines in _together(side.lines()):
        rows = vocabulary.encode(lines)
        lengths = np.fromiter(map(len, rows), np.int32, len(rows))
        pieces = (piece for row in rows for piece in row)
        yield np.fromiter(pieces, kind, int(lengths.sum())), lengths


def _together(lines: Iterator[str]) -> Iterator[list[str]]:
    """Return the lines in lists that are bounded in number and in characters."""
    while True:
        some: list[str] = []
        characters = 0
        for line in islice(lines, _LINES):
            some.append(line)
            characters += len(line)
            if characters > _CHARACTERS:
                break
        if not some:
            return
        yield some


def _unknown(pieces: np.ndarray) -> int:
    return int(np.count_nonzero(pieces == UNKNOWN))


def _content(side: Side, vocabulary: Vocabulary, key: dict[str, Any]) -> Iterator[bytes]:
    """Return the file: pieces, zeros up to a multiple of 8, lengths, JSON, its size, a mark."""
    lengths = []
    total = unknown = size = 0
    kind = np.dtype(np.uint16)
    for part, counts in _encoded(side, vocabulary):
        kind = part.dtype
        lengths.append(counts)
        total += len(part)
        unknown += _unknown(part)
        size += part.nbytes
        yield part.tobytes()
    yield bytes(-size % 8)
    for counts in lengths:
        yield counts.tobytes()
    described = {
        "key": key,
        "kind": kind.name,
        "lines": sum(map(len, lengths)),
        "pieces": total,
        "unknown": unknown,
    }
    tail = json.dumps(described, sort_keys=True).encode()
    yield tail + len(tail).to_bytes(8, "little") + _MAGIC


def _mapped(path: Path, key: dict[str, Any]) -> Tokens | None:
    """Return what a file holds, or None where it is missing, damaged or made from another text."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        with open(path, "rb") as file:
            file.seek(0, 2)
            size = file.tell()
            file.seek(max(0, size - 16))
            mark = file.read(16)
            length = int.from_bytes(mark[:8], "little")
            if mark[8:] != _MAGIC or length > size - 16:
                return None
            file.seek(size - 16 - length)
            described = json.loads(file.read(length))
            if described["key"] != key or described["kind"] not in ("uint16", "int32"):
                return None
            kind = np.dtype(described["kind"])
            lines, pieces = int(described["lines"]), int(described["pieces"])
            start = -(-pieces * kind.itemsize // 8) * 8
            if start + 4 * lines + length + 16 != size:
                return None
            file.seek(start)
            lengths = np.fromfile(file, np.int32, lines)
        if lengths.sum(dtype=np.int64) != pieces:
            return None
        values = np.memmap(path, kind, "r", 0, (pieces,)) if pieces else np.empty(0, kind)
        return Tokens(values, lengths, int(described["unknown"]))
    return None
