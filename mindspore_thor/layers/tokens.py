"""Which positions of token sequences are padding, told from the gradient of a layer's output.

A padded position has no way to the loss: its gradient is exactly zero. So has a real token all of
whose units are off, or that no loss looks at. What tells them apart is the place: padding is the
run of such positions at the end of a sequence, or at its beginning; in between they are real. Where
that is not enough, a net says it by :func:`mark_tokens`.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindspore_thor.graph.operators import ABS
from mindspore_thor.linalg.sums import MAX, MAX_KEPT

SENTINEL = 2.0**-80
"""Gradient of a real token that has none: still a normal float32 number after many products.

Its square is zero in float32, and beside a gradient above 1e-17 it is nothing.
"""

_HALF_SENTINEL = 2.0**-24
"""The smallest float16; there it goes into rows without any gradient alone."""


@ops.constexpr
def _places(length: int) -> tuple[Tensor, Tensor]:
    """Positions counted from 1, from the front and from the back, float32 [S]."""
    places = np.arange(1, length + 1, dtype=np.float32)
    return Tensor(places), Tensor(places[::-1].copy())


def real_positions(dout: Tensor) -> Tensor:
    """1 for real positions and 0 for padding.

    The sequence is the last axis but the features'; each has its own padding.

    Args:
        dout: gradient of a layer's output, float32 [..., S, d].

    Returns:
        float32 [..., S, 1]. Of a sequence without any gradient all positions are padding.
    """
    front, back = _places(dout.shape[-2])
    live = ops.cast(MAX(ABS(dout), -1) != 0, ms.float32)
    last = MAX_KEPT(live * front, -1)
    first = MAX_KEPT(live * back, -1)
    # Without a live position both are 0, and no place is within them.
    real = ops.logical_and(front <= last, back <= first)
    return ops.cast(real, ms.float32).expand_dims(-1)


def times_rows(rows: Tensor, weights: Tensor) -> Tensor:
    """Rows [..., S, d] times one number each, [..., S, 1]."""
    # MindSpore's CPU product takes ten times as long where it has to repeat a factor itself.
    return rows * ops.tile(weights, (1,) * (len(rows.shape) - 1) + (rows.shape[-1],))


class _Mark(nn.Cell):
    """See :func:`mark_tokens`."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)

    def construct(self, x: Tensor, mask: Tensor) -> Tensor:
        """``x`` itself."""
        return x

    def bprop(self, x: Tensor, mask: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient with its rows marked."""
        real = ops.cast(mask, dout.dtype).expand_dims(-1)
        if dout.dtype == ms.float16:
            # Numbers are coarse here: only rows without a gradient may be touched.
            dead = ops.cast(MAX_KEPT(ABS(dout), -1) < _HALF_SENTINEL, dout.dtype)
            marked = times_rows(dout, real) + dead * real * _HALF_SENTINEL
        else:
            # To every real row: whether one is dead needs not be known. Numbers above 1e-17 keep
            # their bits, and no reduction is needed.
            marked = times_rows(dout + SENTINEL, real)
        return marked, ops.zeros_like(mask)


_MARK = _Mark()


def mark_tokens(x: Tensor, mask: Tensor) -> Tensor:
    """Say which rows of a layer's output are real tokens, for the statistics of that layer.

    Without it padding is the run of positions without any gradient at the end (or beginning) of a
    sequence. That is wrong where a real token stands there whose ReLUs are all off: call this on
    the output of the layer, before the ReLU. The output stays as it is. On the way back the
    gradient of masked rows becomes exactly zero, which it should be anyway, and that of real rows
    differs from zero, by :data:`SENTINEL` where need be: too little to change a sum.

    Args:
        x: output of a layer, [N, S, d].
        mask: boolean or number [N, S], nonzero for real tokens.

    Returns:
        ``x``.
    """
    return _MARK(x, mask)
