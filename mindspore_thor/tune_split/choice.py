"""The trade-off behind the split dimension, THOR section 3.2, Eqs. 11-12: numbers in, choice out.

A small block is inverted fast but loses what stands outside of the blocks. The paper draws two
curves over the split dimension s, the speed ``perf(s) = p(1) / p(s)`` of one s x s inversion and
the share of layers whose input factor loses less than 1 %, and takes the candidate nearest to
where they cross.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CANDIDATES = (1, 16, 32, 64, 128, 256, 512, 1024, 2048)
"""The split dimensions of the paper's Table 1."""

LOSS_LIMIT = 0.01
"""A factor that loses less than this counts as preserved."""


def spectral_norm(matrices: np.ndarray) -> float:
    """Largest absolute eigenvalue of symmetric matrices.

    Args:
        matrices: [..., d, d].

    Returns:
        The largest one of all; the spectral norm of the block-diagonal matrix that they form.
    """
    return float(np.abs(np.linalg.eigvalsh(matrices)).max())


def information_loss(factor: np.ndarray, split: int) -> float:
    """What the block-diagonal part of a factor loses of its norm: ``1 - ||A^||_2 / ||A||_2``.

    Eq. 11 with both square roots taken: ``sqrt(lmax(M M^T)) = ||M||_2``.

    Args:
        factor: Symmetric positive semi-definite, [d, d], or [groups, d, d] for a layer that is
            block-diagonal by itself.
        split: Block size s, at least 1.

    Returns:
        A number in [0, 1): 0 where s >= d, and for a factor of zeros.
    """
    matrix = np.asarray(factor, np.float64)
    d = matrix.shape[-1]
    if split >= d:
        return 0.0
    whole = spectral_norm(matrix)
    if whole == 0.0:
        return 0.0
    pad = -d % split
    # Zeros at the end of the last, ragged block add eigenvalues of zero and change no norm.
    width = [(0, 0)] * (matrix.ndim - 2) + [(0, pad), (0, pad)]
    blocks = (d + pad) // split
    parts = np.pad(matrix, width).reshape((-1, blocks, split, blocks, split))
    diagonal = np.einsum("gbibj->gbij", parts)
    return max(0.0, 1.0 - spectral_norm(diagonal) / whole)


def preserved_share(factors: Sequence[np.ndarray], split: int) -> float:
    """Share of the factors that lose less than 1 % at a split dimension.

    Args:
        factors: Input factors A of the layers, see :func:`information_loss`.
        split: Block size s.

    Returns:
        A number in [0, 1].
    """
    losses = [information_loss(factor, split) for factor in factors]
    return sum(loss < LOSS_LIMIT for loss in losses) / len(losses)


@dataclass(frozen=True)
class Choice:
    """A recommended split dimension.

    Attributes:
        split: The candidate nearest to the crossing.
        crossing: (s, common value) where the two curves meet, or None where they do not.
        performance: p(1) / p(s) of each candidate.
    """

    split: int
    crossing: tuple[float, float] | None
    performance: tuple[float, ...]


def choose_split(
    splits: Sequence[int],
    shares: Sequence[float],
    seconds: Sequence[float],
    unit_seconds: float,
) -> Choice:
    """Find where speed and preserved share cross, by linear interpolation between candidates.

    Args:
        splits: Candidates, ascending.
        shares: Preserved share of each.
        seconds: p(s): time of one s x s inversion of each, in any unit.
        unit_seconds: p(1) in the same unit.

    Returns:
        The choice. Without a crossing it is the smallest candidate where even that one preserves
        more than its speed, and otherwise the largest.
    """
    performance = tuple(unit_seconds / value for value in seconds)
    gaps = [speed - share for speed, share in zip(performance, shares)]
    if gaps[0] < 0:
        return Choice(splits[0], None, performance)
    for k in range(len(gaps) - 1):
        if gaps[k + 1] < 0:
            t = gaps[k] / (gaps[k] - gaps[k + 1])
            x = splits[k] + t * (splits[k + 1] - splits[k])
            y = shares[k] + t * (shares[k + 1] - shares[k])
            nearest = min(splits, key=lambda split: (abs(split - x), split))
            return Choice(nearest, (x, y), performance)
    return Choice(splits[-1], None, performance)
