"""Dropout whose masks depend on numbers that come with the batch.

MindSpore's Dropout draws from a hidden position that no checkpoint holds: a resumed run would drop
other units, and two ranks others than one process. Here every sentence brings a number, its noise,
and masks are a function of it: of the token's position and of the layer, nothing else.
"""

from __future__ import annotations

import functools

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from mindspore_thor.errors import UserError
from mindspore_thor.linalg.random import scrambled

ROWS = 4096
"""Different masks of one width. Tokens choose among them, each layer another one."""

_SHIFT = Tensor(32 - 12, mstype.int32)
_LOW = Tensor(ROWS - 1, mstype.int32)
_GOLDEN = Tensor(np.array(0x9E3779B9, np.uint32).astype(np.int32))


def _odd(number: int) -> int:
    """An odd int32 that shares no pattern with those of other numbers."""
    generator = np.random.default_rng((number, 0xD509))
    return int(generator.integers(0, 2**30, dtype=np.int64)) * 2 + 1


@functools.cache
def drawn_masks(width: int, rate: float) -> Tensor:
    """Rows of 0 with probability ``rate`` and 1 / (1 - rate) else, float32 [ROWS, width].

    An attribute of the same name would make the compile cache think that graphs draw numbers.
    """
    kept = np.random.default_rng(width).random((ROWS, width)) >= rate
    return Tensor(kept.astype(np.float32) / np.float32(1.0 - rate))


@ops.constexpr
def refuse_silence() -> None:
    """Raise: dropout without noise would be none."""
    raise UserError(
        "the Transformer drops nothing without noise: give int32 [N], other numbers in every step, "
        "as its last input, or make it with dropout=0 and attention_dropout=0"
    )


@ops.constexpr
def _places(length: int) -> Tensor:
    return Tensor(np.arange(length, dtype=np.int32).reshape((1, length)))


def token_noise(noise: Tensor, length: int) -> Tensor:
    """One number for each token.

    Args:
        noise: int32 [N].
        length: Tokens of a sentence.

    Returns:
        int32 [N, length].
    """
    return scrambled(scrambled(noise.reshape((-1, 1))) + _places(length) * _GOLDEN)


class TokenDropout(nn.Cell):
    """Drops features of tokens.

    Args:
        width: Features of a token.
        rate: Share that is dropped, in [0, 1).
        number: Tells the net's dropouts apart.
    """

    def __init__(self, width: int, rate: float, number: int) -> None:
        super().__init__()
        self.masks = drawn_masks(width, rate)
        self.factor = Tensor(_odd(number), mstype.int32)
        self.gather = ops.Gather()

    def construct(self, x: Tensor, noise: Tensor) -> Tensor:
        """[N, T, width] and int32 [N, T] -> [N, T, width]."""
        rows = ops.bitwise_and(ops.bitwise_right_shift(noise * self.factor, _SHIFT), _LOW)
        return x * self.gather(self.masks, rows, 0)


class WeightDropout(nn.Cell):
    """Drops attention weights.

    Args:
        heads: Of the attention.
        length: Most keys.
        rate: Share that is dropped, in [0, 1).
        number: Tells the net's dropouts apart.
    """

    def __init__(self, heads: int, length: int, rate: float, number: int) -> None:
        super().__init__()
        self.masks = drawn_masks(length, rate)
        factors = [_odd(number * 1000 + head) for head in range(heads)]
        self.factors = Tensor(np.array(factors, np.int32).reshape((1, heads, 1)))
        self.first = ops.Slice()
        self.gather = ops.Gather()
        self.reshape = ops.Reshape()

    def construct(self, weights: Tensor, noise: Tensor) -> Tensor:
        """[N, heads, T, S] and int32 [N, T] -> [N, heads, T, S]."""
        keys = self.first(self.masks, (0, 0), (ROWS, weights.shape[3]))
        each = self.reshape(noise, (noise.shape[0], 1, noise.shape[1])) * self.factors
        rows = ops.bitwise_and(ops.bitwise_right_shift(each, _SHIFT), _LOW)
        return weights * self.gather(keys, rows, 0)
