"""Writes TFRecord files of Examples, bit by bit from the formats' descriptions."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np


def crc32c(content: bytes) -> int:
    """Bit by bit: polynomial 0x1EDC6F41, reflected, all ones before and after."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(content: bytes) -> bytes:
    crc = crc32c(content)
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(features: dict[str, Any], packed: bool = True) -> bytes:
    """Lists of floats, of whole numbers, or bytes."""
    entries = b""
    for name, values in features.items():
        if isinstance(values, bytes):
            feature = field(1, field(1, values))
        elif any(isinstance(value, float) for value in values):
            numbers = [struct.pack("<f", value) for value in values]
            items = (
                field(1, b"".join(numbers)) if packed else b"".join(b"\x0d" + n for n in numbers)
            )
            feature = field(2, items)
        else:
            numbers = [varint(int(value)) for value in values]
            items = (
                field(1, b"".join(numbers)) if packed else b"".join(b"\x08" + n for n in numbers)
            )
            feature = field(3, items)
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


def write_records(path: Path, contents: list[bytes]) -> None:
    with open(path, "wb") as file:
        for content in contents:
            head = struct.pack("<Q", len(content))
            file.write(head + masked(head) + content + masked(content))


def bert_features(
    seed: int, length: int = 8, predictions: int = 3, vocab: int = 50
) -> dict[str, list]:
    """A sample with MLPerf's fields; half of its words are masked ones."""
    generator = np.random.default_rng(seed)
    used = int(generator.integers(5, length + 1))
    count = int(generator.integers(1, predictions + 1))
    row = generator.integers(5, vocab, length)
    row[used:] = 0
    places = np.sort(generator.permutation(np.arange(1, used))[:count])
    pad = [0] * (predictions - count)
    return {
        "input_ids": row.tolist(),
        "input_mask": [1] * used + [0] * (length - used),
        "segment_ids": [0] * 3 + [1] * (used - 3) + [0] * (length - used),
        "masked_lm_positions": [*places.tolist(), *pad],
        "masked_lm_ids": [*generator.integers(5, vocab, count).tolist(), *pad],
        "masked_lm_weights": [1.0] * count + [0.0] * len(pad),
        "next_sentence_labels": [int(generator.integers(2))],
    }
