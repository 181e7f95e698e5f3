"""From sums over the real rows of token sequences to means over them.

A rule cannot divide by the number of real rows itself: ranks and micro-batches, whose statistics
are averaged, have different ones. So it divides by the number of samples N alone, which is the same
for all, takes g = N dL/ds, and reports the real rows per sample. Only when all have been averaged
are the statistics divided by the mean of that, here. With M real rows (M / N = real), that makes

| mode | a a^T, a | g g^T and products of four | g | T |
|---|---|---|---|---|
| "" and rows [N, d] (real = 1) | 1 | 1 | 1 | T |
| "expand": M samples, g = M dL/ds | 1 / real | real | 1 | 1 |
| "reduce": means over a sample's real rows, g = M dL/ds | 1 | real^2 | real | 1 |
| "share": N samples of M / N positions, g = N dL/ds | 1 / real | 1 / real | 1 / real | real |

Several uses of a layer in one pass are pooled: a mean over all their real rows.
"""

from __future__ import annotations

from typing import NamedTuple

from mindspore import Tensor

from mindspore_thor.graph.operators import DIV, MAXIMUM, MUL

INPUTS, SQUARES, GRADIENTS = 0, 1, 2
"""What a part of the statistics is a sum of: a a^T or a; g g^T, or products of two a and g; g."""

_FEWEST = 1e-9
"""Stands for the real rows per sample of a layer without any, whose statistics nobody takes."""


class TokenParts(NamedTuple):
    """Where the parts of statistics begin, how long they are, and what they are sums of."""

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    kinds: tuple[int, ...]


def token_parts_of(*parts: tuple[int, int]) -> TokenParts:
    """Where parts lie that follow one another.

    Args:
        parts: (length, kind) of every part; kinds are :data:`INPUTS`, :data:`SQUARES` and
            :data:`GRADIENTS`.
    """
    lengths = tuple(length for length, _ in parts)
    starts = tuple(sum(lengths[:k]) for k in range(len(parts)))
    return TokenParts(starts, lengths, tuple(kind for _, kind in parts))


def divisors(mode: str, uses: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the statistics of a pass are divided by, and T.

    Args:
        mode: "expand", "reduce" or "share".
        uses: of every layer in the pass, [L, 1], at least 1.
        rows: real rows per sample, added up over the uses, [L, 1].

    Returns:
        Divisors of :data:`INPUTS`, :data:`SQUARES` and :data:`GRADIENTS`, and the positions T added
        up over the uses, [L, 1] each. Exactly the uses for rows [N, d].
    """
    rows = MAXIMUM(rows, _FEWEST)
    if mode == "expand":
        return rows, DIV(MUL(uses, uses), rows), uses, uses
    if mode == "reduce":
        share = DIV(uses, rows)
        both = MUL(uses, share)
        return uses, MUL(both, share), both, uses
    return rows, rows, rows, rows


def projected_factor(mode: str, uses: Tensor, rows: Tensor) -> Tensor:
    """What squares of whole samples' gradients are multiplied with (EKFAC's S), [L, 1]."""
    if mode == "share":
        return uses / uses
    real = rows / uses
    return real if mode == "expand" else real * real
