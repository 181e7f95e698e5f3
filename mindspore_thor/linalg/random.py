"""Random numbers that depend on a key and a counter only, so that a resumed run draws the same.

MindSpore's generators keep a hidden position that no checkpoint holds, and those that take a seed
as an input have no CPU kernel. Integer operators other than the product are slow on CPU, so there
are as few of them as the tests allow.
"""

from __future__ import annotations

from statistics import NormalDist

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from mindspore_thor.graph.counting import counting
from mindspore_thor.graph.operators import ADD, CONCAT1, GATHER, MUL
from mindspore_thor.graph.slices import part

_AND, _XOR, _SHIFT = ops.BitwiseAnd(), ops.BitwiseXor(), ops.RightShift()


def _constant(value: int) -> Tensor:
    return Tensor(np.array(value, np.uint32).astype(np.int32))


# Chris Wellons' "lowbias32" hash without its last shift, in wrapping int32 arithmetic.
_SHIFT_1, _MASK_1, _FACTOR_1 = (_constant(c) for c in (16, 2**16 - 1, 0x21F0AAAD))
_SHIFT_2, _MASK_2, _FACTOR_2 = (_constant(c) for c in (15, 2**17 - 1, 0xD35A2D97))
_GOLDEN, _STEP, _SECOND = _constant(0x9E3779B9), _constant(0x85EBCA6B), _constant(0xC2B2AE35)


QUANTILES = 2**14
"""Entries of the table; the largest number in it is 4.2 standard deviations."""
SEQUENCE = 2**12
"""Positions of a sequence that have counters of their own before the next sequence's begin."""
_HIGH, _LOW = _constant(32 - 14), _constant(QUANTILES - 1)


def scrambled(x: Tensor) -> Tensor:
    """A bijection of int32 that leaves no visible pattern of consecutive numbers."""
    # Not a loop, which the compiler unrolls into several graphs a round.
    x = _round(x, _SHIFT_1, _MASK_1, _FACTOR_1)
    return _round(x, _SHIFT_2, _MASK_2, _FACTOR_2)


def _round(x: Tensor, shift: Tensor, mask: Tensor, factor: Tensor) -> Tensor:
    # int32 shifts repeat the sign bit; the mask makes the shift a logical one.
    return MUL(_XOR(x, _AND(_SHIFT(x, shift), mask)), factor)


def _quantiles() -> Tensor:
    """float32 [QUANTILES]: squares of a standard normal number, equally likely, with mean 1."""
    inverse = NormalDist().inv_cdf
    squares = [inverse(0.5 + (k + 0.5) / (2 * QUANTILES)) ** 2 for k in range(QUANTILES)]
    # The last interval's middle lies below its mean: without this the factors would be too small.
    return Tensor(np.array(squares) / np.mean(squares), ms.float32)


_TABLE = _quantiles()


def squared_normal(
    rows: int, count: int, key: int, step: Tensor, first: int = 0, positions: int = 0
) -> Tensor:
    """Squares of independent standard normal numbers, drawn from a table of quantiles.

    A table, because it has the same bits in every run: MindSpore's CPU kernels for logarithm and
    cosine round differently with the number of threads, which they choose while they run.

    A row's numbers depend on its index and on ``count``, not on how many rows there are.

    Args:
        rows: how many rows.
        count: numbers per row.
        key: int32 number that tells streams apart.
        step: int32 scalar; every step has its own numbers.
        first: index of the first row.
        positions: where rows are sequences, their length: the numbers of a position depend on its
            index and on count / positions, not on how long the sequence is (up to
            :data:`SEQUENCE`); 0 where they are none.

    Returns:
        float32 [rows, count].
    """
    if positions > 0:
        return _of_positions(rows, positions, count // positions, key, step, first)
    half = (count + 1) // 2
    start = scrambled(ADD(scrambled(MUL(step, _STEP)), key))
    counter = counting(first * half, (first + rows) * half)
    return _drawn(counter, start, rows, count)


def _of_positions(
    rows: int, positions: int, count: int, key: int, step: Tensor, first: int
) -> Tensor:
    """float32 [rows, positions * count]: a row of its own for every position."""
    half = (count + 1) // 2
    start = scrambled(scrambled(step * _STEP) + key)
    # Not max(), which compiles for 50 ms.
    stride = (positions if positions > SEQUENCE else SEQUENCE) * half
    begin = counting(first, first + rows).reshape((rows, 1)) * stride
    counter = begin + counting(0, positions * half)
    numbers = _drawn(counter.reshape((-1,)), start, rows * positions, count)
    return numbers.reshape((rows, positions * count))


def _drawn(counter: Tensor, start: Tensor, rows: int, count: int) -> Tensor:
    """float32 [rows, count] from as many counters as :func:`squared_normal` needs."""
    half = (count + 1) // 2
    bits = scrambled(ADD(MUL(counter, _GOLDEN), start))
    # Two numbers of one hash: its high bits, and those of a product that mixes the low ones in.
    second = MUL(bits, _SECOND).reshape((rows, half))
    indices = CONCAT1((bits.reshape((rows, half)), second))
    indices = _AND(_SHIFT(indices, _HIGH), _LOW)
    return part(GATHER(_TABLE, indices, 0), 0, count, 1)
