"""The numbers in a ``tf.train.Example``, without TensorFlow.

The message is Example { Features features = 1 }, Features { map<string, Feature> feature = 1 },
Feature { BytesList 1 | FloatList 2 | Int64List 3 }, each list { repeated value = 1 }, packed
or not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_FLOATS, _INTEGERS = 2, 3


def parse_example(content: bytes) -> dict[str, np.ndarray]:
    """Return the features that are numbers.

    Args:
        content: The bytes of the message.

    Returns:
        Name -> int64 or float32 values, [n]; features of bytes are left out.

    Raises:
        ValueError: The bytes are no such message.
    """
    found: dict[str, np.ndarray] = {}
    try:
        for number, features in _fields(content):
            if number != 1:
                continue
            for inner, entry in _fields(features):
                if inner == 1:
                    name, feature = _entry(entry)
                    values = _values(feature)
                    if values is not None:
                        found[name] = values
    except (IndexError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None
    return found


def _entry(entry: bytes) -> tuple[str, bytes]:
    parts = dict(_fields(entry))
    return bytes(parts.get(1, b"")).decode(), bytes(parts.get(2, b""))


def _values(feature: bytes) -> np.ndarray | None:
    for kind, items in _fields(feature):
        if kind == _FLOATS:
            parts = [part for number, part in _fields(items) if number == 1]
            return np.frombuffer(b"".join(parts), "<f4")
        if kind == _INTEGERS:
            parts = [part for number, part in _fields(items, keep=True) if number == 1]
            return _integers(b"".join(parts))
    return None


def _integers(packed: bytes) -> np.ndarray:
    """Return the numbers of base-128 varints that follow one another, int64 [n]."""
    row = np.frombuffer(packed, np.uint8)
    ends = np.flatnonzero(row < 0x80)
    if len(row) and (not len(ends) or ends[-1] != len(row) - 1):
        raise ValueError("a number is cut")
    starts = np.append(0, ends[:-1] + 1) if len(ends) else ends
    lengths = ends - starts + 1
    if len(lengths) and lengths.max() > 10:
        raise ValueError("a number has more than 64 bits")
    values = np.zeros(len(ends), np.uint64)
    for place in range(int(lengths.max()) if len(lengths) else 0):
        there = lengths > place
        digit = (row[starts[there] + place] & 0x7F).astype(np.uint64)
        values[there] |= digit << np.uint64(7 * place)
    return values.view(np.int64)


def _fields(content: bytes, keep: bool = False) -> Iterator[tuple[int, bytes]]:
    """Return number and bytes of each field.

    Args:
        content: A message.
        keep: Whether to return a varint, too, as the bytes that stand there.
    """
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        kind = tag & 7
        begin = at
        if kind == _VARINT:
            _, at = _varint(content, at)
            if keep:
                yield tag >> 3, content[begin:at]
            continue
        if kind == _BYTES:
            size, begin = _varint(content, at)
        elif kind in (_FOUR, _EIGHT):
            size = 4 if kind == _FOUR else 8
        else:
            raise ValueError(f"a field of kind {kind}")
        at = begin + size
        if at > len(content):
            raise ValueError("a field is cut")
        yield tag >> 3, content[begin:at]


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """Return a number and where the next thing begins."""
    value = shift = 0
    while True:
        digit = content[at]
        value |= (digit & 0x7F) << shift
        at += 1
        if digit < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number has more than 64 bits")
