"""Normal numbers that depend on a key and a counter only, so that a resumed run draws the same.

MindSpore's generators keep a hidden position that no checkpoint holds.
"""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops


def _constant(value: int) -> Tensor:
    return Tensor(np.array(value, np.uint32).astype(np.int32))


# The "lowbias32" hash of Chris Wellons: (shift, multiplier) rounds, in wrapping int32 arithmetic.
_ROUNDS = ((16, 0x21F0AAAD), (15, 0xD35A2D97), (15, 1))
_SHIFTS = tuple(_constant(shift) for shift, _ in _ROUNDS)
_MASKS = tuple(_constant(2 ** (32 - shift) - 1) for shift, _ in _ROUNDS)
_FACTORS = tuple(_constant(factor) for _, factor in _ROUNDS)
_EIGHT, _TOP = _constant(8), _constant(2**24 - 1)
_GOLDEN, _STEP, _SECOND = _constant(0x9E3779B9), _constant(0x85EBCA6B), _constant(0x6A09E667)


def _hash(x: Tensor) -> Tensor:
    """A bijection of int32 that leaves no visible pattern of consecutive numbers."""
    for shift, mask, factor in zip(_SHIFTS, _MASKS, _FACTORS):
        # int32 shifts repeat the sign bit; the mask makes the shift a logical one.
        high = ops.bitwise_and(ops.bitwise_right_shift(x, shift), mask)
        x = ops.bitwise_xor(x, high) * factor
    return x


def _uniform(bits: Tensor) -> Tensor:
    """The top 24 bits as float32 in (0, 1)."""
    top = ops.bitwise_and(ops.bitwise_right_shift(bits, _EIGHT), _TOP)
    return (ops.cast(top, ms.float32) + 0.5) * 2.0**-24


def normal(rows: int, count: int, key: int, step: Tensor) -> Tensor:
    """Independent standard normal numbers (Box and Muller).

    A row's numbers depend on its index and on ``count``, not on how many rows there are.

    Args:
        rows: how many rows.
        count: numbers per row.
        key: int32 number that tells streams apart.
        step: int32 scalar; every step has its own numbers.

    Returns:
        float32 [rows, count].
    """
    half = (count + 1) // 2
    start = _hash(_hash(step * _STEP) + key)
    counter = ops.cast(ops.arange(rows * half), ms.int32) * _GOLDEN + start
    first = _hash(counter)
    radius = ops.sqrt(-2.0 * ops.log(_uniform(first)))
    angle = (2.0 * math.pi) * _uniform(_hash(ops.bitwise_xor(first, _SECOND)))
    pairs = (radius * ops.cos(angle), radius * ops.sin(angle))
    return ops.stack(pairs, 1).reshape((rows, 2 * half))[:, :count]
