"""Random numbers that depend on a key and a counter only, so that a resumed run draws the same.

MindSpore's generators keep a hidden position that no checkpoint holds, and those that take a seed
as an input have no CPU kernel. Integer operators other than the product are slow on CPU, so there
are as few of them as the tests allow.
"""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops


def _constant(value: int) -> Tensor:
    return Tensor(np.array(value, np.uint32).astype(np.int32))


# Chris Wellons' "lowbias32" hash without its last shift, in wrapping int32 arithmetic.
_ROUNDS = ((16, 0x21F0AAAD), (15, 0xD35A2D97))
_SHIFTS = tuple(_constant(shift) for shift, _ in _ROUNDS)
_MASKS = tuple(_constant(2 ** (32 - shift) - 1) for shift, _ in _ROUNDS)
_FACTORS = tuple(_constant(factor) for _, factor in _ROUNDS)
_GOLDEN, _STEP, _SECOND = _constant(0x9E3779B9), _constant(0x85EBCA6B), _constant(0xC2B2AE35)


def _hash(x: Tensor) -> Tensor:
    """A bijection of int32 that leaves no visible pattern of consecutive numbers."""
    for shift, mask, factor in zip(_SHIFTS, _MASKS, _FACTORS):
        # int32 shifts repeat the sign bit; the mask makes the shift a logical one.
        high = ops.bitwise_and(ops.bitwise_right_shift(x, shift), mask)
        x = ops.bitwise_xor(x, high) * factor
    return x


def _uniform(bits: Tensor) -> Tensor:
    """int32 as float32 in (0, 1)."""
    return ops.maximum(ops.cast(bits, ms.float32) * 2.0**-32 + 0.5, 2.0**-25)


def squared_normal(rows: int, count: int, key: int, step: Tensor) -> Tensor:
    """Squares of independent standard normal numbers (Box and Muller).

    The squares of a pair are r^2 cos^2 and r^2 sin^2 with r^2 = -2 log u, so one logarithm and one
    cosine of the doubled angle give both. A row's numbers depend on its index and on ``count``,
    not on how many rows there are.

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
    bits = _hash(ops.cast(ops.arange(rows * half), ms.int32) * _GOLDEN + start)
    half_square = -ops.log(_uniform(bits))
    # The product's high bits come from all bits; the radius only shows the high ones.
    cosine = ops.cos((2.0 * math.pi) * _uniform(bits * _SECOND))
    first = half_square * (1.0 + cosine)
    pairs = (first.reshape((rows, half)), (2.0 * half_square - first).reshape((rows, half)))
    return ops.concat(pairs, 1)[:, :count]
