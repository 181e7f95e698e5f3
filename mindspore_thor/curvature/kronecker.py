"""Kronecker factors A and G of a layer, as diagonal blocks (methods section 0).

The Fisher block of a layer with T shared positions is F = T * A (x) G, where A and G are the means
over samples and positions of a a^T and g g^T. A split dimension keeps only the diagonal blocks, so
neither the matrix products nor the memory of the rest are ever spent.
"""

from __future__ import annotations

from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindspore_thor.curvature.alike import Maker
from mindspore_thor.curvature.base import LayerCurvature
from mindspore_thor.curvature.input_moments import InputMoments
from mindspore_thor.curvature.rule import StatisticsRule
from mindspore_thor.linalg.blocks import BlockLayout, block_layout
from mindspore_thor.linalg.moments import block_moments
from mindspore_thor.linalg.slices import part


class KroneckerRule(StatisticsRule):
    """Backward rule: blocks of A and of G, then (1, T, N), as one float32 vector.

    Args:
        rows: the layer's geometry.
        homogeneous: whether a one is appended to a, so that A covers the bias.
        left: split of G.
        right: split of A.
    """

    def __init__(
        self, rows: nn.Cell, homogeneous: bool, left: BlockLayout, right: BlockLayout
    ) -> None:
        super().__init__(rows, homogeneous)
        self.left = left
        self.input_moments = InputMoments(rows, homogeneous, right)

    def construct(self, x: Tensor, out: Tensor, dout: Tensor, state: Tensor) -> Tensor:
        """X and the gradient of the layer's output -> statistics."""
        a = self.input_moments(x)
        g = block_moments(self.rows.output_columns(dout), self.left)
        return ops.concat((a.reshape(-1), g.reshape(-1), self.meta(x, dout)))


class KroneckerLayout(NamedTuple):
    """Where the blocks of A, those of G and the META tail lie in a vector of statistics."""

    groups: int
    left: BlockLayout
    right: BlockLayout
    end_a: int
    end_g: int
    end: int


def factors_of(statistics: Tensor, layout: KroneckerLayout) -> tuple[Tensor, Tensor, Tensor]:
    """A and G, each [groups, blocks, size, size], and the positions T."""
    groups, left, right = layout.groups, layout.left, layout.right
    a = part(statistics, 0, layout.end_a)
    g = part(statistics, layout.end_a, layout.end_g - layout.end_a)
    positions = part(statistics, layout.end + 1, 1).reshape(())
    a = a.reshape((groups, right.blocks, right.size, right.size))
    return a, g.reshape((groups, left.blocks, left.size, left.size)), positions


class KroneckerCurvature(LayerCurvature):
    """A layer whose statistics are its Kronecker factors.

    Args:
        name: prefix of the parameters' names.
        rows: the layer's geometry.
        homogeneous: whether the bias is part of the matrix (A of a~ = [a; 1]).
        split_dim: block size for both factors, or None for whole factors.
        decay: weight of the old factor in the moving average; 0 replaces it. The first update
            always overwrites.
        extra: further statistics of a subclass, stored behind G.
    """

    def __init__(
        self,
        name: str,
        rows: nn.Cell,
        homogeneous: bool,
        split_dim: int | None,
        decay: float,
        extra: int = 0,
    ) -> None:
        left = block_layout(rows.d_out, split_dim)
        right = block_layout(rows.d_in + int(homogeneous), split_dim)
        length_a = rows.groups * right.blocks * right.size**2
        length_g = rows.groups * left.blocks * left.size**2
        super().__init__(name, length_a + length_g + extra, decay)
        self.rows = rows
        self.homogeneous = homogeneous
        self.left = left
        self.right = right
        self.end_a = length_a
        self.end_g = length_a + length_g
        self.layout = KroneckerLayout(rows.groups, left, right, self.end_a, self.end_g, self.end)

    def make_rule(self, make: Maker) -> nn.Cell:
        """Blocks of A and G from one backward pass."""
        return make(KroneckerRule, self.rows, self.homogeneous, self.left, self.right)

    def factor_a(self) -> Tensor:
        """Blocks of A, [groups, blocks, size, size]."""
        return factors_of(self.statistics, self.layout)[0]

    def factor_g(self) -> Tensor:
        """Blocks of G, [groups, blocks, size, size]."""
        return factors_of(self.statistics, self.layout)[1]

    def symmetric(self) -> tuple[tuple[int, int, int], ...]:
        """The blocks of A and of G."""
        (count_a, size_a), (count_g, size_g) = KroneckerCurvature.stacks(self)
        return (0, count_a, size_a), (self.end_a, count_g, size_g)

    def stacks(self) -> tuple[tuple[int, int], ...]:
        """The blocks of A, then those of G."""
        groups = self.rows.groups
        return (
            (groups * self.right.blocks, self.right.size),
            (groups * self.left.blocks, self.left.size),
        )


def trace(blocks: Tensor) -> Tensor:
    """Trace per group of block-diagonal matrices, [groups, blocks, size, size] -> [groups]."""
    size = blocks.shape[-1]
    return (blocks * ops.eye(size, size, ms.float32)).reshape((blocks.shape[0], -1)).sum(1)


def stack(blocks: Tensor) -> Tensor:
    """[groups, blocks, size, size] -> [groups * blocks, size, size]."""
    size = blocks.shape[-1]
    return blocks.reshape((-1, size, size))


def per_block(value: Tensor, blocks: Tensor) -> Tensor:
    """A scalar, or one value per group, repeated for every block: [groups * blocks]."""
    ones = ops.ones(blocks.shape[:2], ms.float32)
    return (value.reshape((-1, 1)) * ones).reshape((-1,))


def identity_blocks(groups: int, layout: BlockLayout) -> np.ndarray:
    """float32 identity blocks, [groups, blocks, size, size]: no preconditioning."""
    eye = np.eye(layout.size, dtype=np.float32)
    return np.broadcast_to(eye, (groups, layout.blocks, layout.size, layout.size)).copy()
