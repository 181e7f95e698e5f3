"""Kronecker factors A and G of layers, as diagonal blocks (methods section 0).

The Fisher block of a layer with T shared positions is F = T * A (x) G, where A and G are the means
over samples and positions of a a^T and g g^T. A split dimension keeps only the diagonal blocks, so
neither the matrix products nor the memory of the rest are ever spent.
"""

from __future__ import annotations

from typing import Callable, NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindspore_thor.capture.input_moments import InputMoments
from mindspore_thor.capture.rule import StatisticsRule
from mindspore_thor.curvature.group import GroupCurvature
from mindspore_thor.curvature.tokens import INPUTS, SQUARES, token_parts_of
from mindspore_thor.graph.operators import ABS, CONCAT0, DIV, EYE, GATHER, MAXIMUM, MUL
from mindspore_thor.graph.shared import Maker
from mindspore_thor.graph.slices import part
from mindspore_thor.layers.rows import Rows
from mindspore_thor.linalg.blocks import BlockLayout, block_layout
from mindspore_thor.linalg.moments import block_moments
from mindspore_thor.linalg.sums import SUM

SMALLEST_PRODUCT = 1e-7
"""Of the dampings of two inverted factors, as a share of the product of their leading eigenvalues.

Chosen: where both factors are singular, rounding leaves some 1e-7 of the gradient, and the two
inverses divide it by the dampings' product. That is then about the shortest step that the curvature
can ask for, at most. Each inverse by itself would still be sound.
"""

_SMALLEST_TRACE = 1e-30
"""Stands for the trace of a dead layer's factor."""


class KroneckerRule(StatisticsRule):
    """Backward rule: blocks of A and of G, then (1, T, N), as one float32 vector.

    Args:
        rows: the layer's geometry.
        homogeneous: whether a one is appended to a, so that A covers the bias.
        left: split of G.
        right: split of A.
    """

    def __init__(
        self, rows: Rows, homogeneous: bool, left: BlockLayout, right: BlockLayout
    ) -> None:
        super().__init__(rows, homogeneous)
        self.left = left
        self.input_moments = InputMoments(rows, homogeneous, right)

    def construct(self, x: Tensor, out: Tensor, dout: Tensor, state: Tensor) -> Tensor:
        """X and the gradient of the layer's output -> statistics."""
        if not self.has_tokens:
            a = self.input_moments(x)
            g = block_moments(self.rows.output_columns(dout), self.left)
            return CONCAT0((a.reshape(-1), g.reshape(-1), self.meta(x, dout)))
        x, g, ones, count, meta = self.seen(x, dout)
        a = self.input_moments(x, ones, count)
        g = block_moments(g, self.left, count)
        return CONCAT0((a.reshape(-1), g.reshape(-1), meta))


class KroneckerLayout(NamedTuple):
    """Where the blocks of A, those of G and the META tail lie in a vector of statistics."""

    groups: int
    left: BlockLayout
    right: BlockLayout
    end_a: int
    end_g: int
    end: int


def factors_of(statistics: Tensor, layout: KroneckerLayout) -> tuple[Tensor, Tensor, Tensor]:
    """A and G of a group's statistics [L, size], and the positions T.

    Returns:
        A [L * groups, blocks, size, size], G likewise, T [L].
    """
    left, right = layout.left, layout.right
    a = part(statistics, 0, layout.end_a, 1)
    g = part(statistics, layout.end_a, layout.end_g - layout.end_a, 1)
    positions = part(statistics, layout.end + 1, 1, 1).reshape((-1,))
    # A layer that has collected nothing has no positions; nothing is made of its factors.
    positions = MAXIMUM(positions, 1.0)
    a = a.reshape((-1, right.blocks, right.size, right.size))
    return a, g.reshape((-1, left.blocks, left.size, left.size)), positions


class KroneckerCurvature(GroupCurvature):
    """Layers whose statistics are their Kronecker factors.

    Args:
        name: prefix of the parameters' names.
        layers: L.
        rows: the layers' geometry.
        homogeneous: whether the bias is part of the matrix (A of a~ = [a; 1]).
        split_dim: block size for both factors, or None for whole factors.
        decay: weight of the old factor in the moving average; 0 replaces it. The first update
            always overwrites.
        extra: further statistics of a subclass, stored behind G.
    """

    def __init__(
        self,
        name: str,
        layers: int,
        rows: Rows,
        homogeneous: bool,
        split_dim: int | None,
        decay: float,
        extra: int = 0,
    ) -> None:
        left = block_layout(rows.d_out, split_dim)
        right = block_layout(rows.d_in + int(homogeneous), split_dim)
        length_a = rows.groups * right.blocks * right.size**2
        length_g = rows.groups * left.blocks * left.size**2
        super().__init__(name, layers, length_a + length_g + extra, decay)
        self.rows = rows
        self.homogeneous = homogeneous
        self.left = left
        self.right = right
        self.end_a = length_a
        self.end_g = length_a + length_g
        self.layout = KroneckerLayout(rows.groups, left, right, self.end_a, self.end_g, self.end)
        self.token_mode = rows.token_mode
        self.token_parts = token_parts_of((length_a, INPUTS), (length_g + extra, SQUARES))

    def make_rule(self, make: Maker, rows: Rows) -> nn.Cell:
        """Blocks of A and G from one backward pass."""
        return make(KroneckerRule, rows, self.homogeneous, self.left, self.right)

    def gradient_part(self) -> tuple[int, int]:
        """G."""
        return self.end_a, self.end_g - self.end_a

    def factor_a(self) -> Tensor:
        """Blocks of A, [L, groups, blocks, size, size]."""
        a = factors_of(self.statistics, self.layout)[0]
        return a.reshape((self.layers, -1, *a.shape[1:]))

    def factor_g(self) -> Tensor:
        """Blocks of G, [L, groups, blocks, size, size]."""
        g = factors_of(self.statistics, self.layout)[1]
        return g.reshape((self.layers, -1, *g.shape[1:]))

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
    """Trace per map of block-diagonal matrices, [n, blocks, size, size] -> [n]."""
    size = blocks.shape[-1]
    return SUM(MUL(blocks, EYE(size, size, ms.float32)).reshape((blocks.shape[0], -1)), 1)


def leading(matrices: Tensor, traces: Tensor) -> Tensor:
    """tr(M M) / tr(M) per map of block-diagonal matrices.

    The mean of the eigenvalues, each weighted by itself: at most the largest of them, and the
    largest itself where it stands alone.

    Args:
        matrices: entries of all maps, of any shape that begins with them.
        traces: tr(M), [n].

    Returns:
        [n].
    """
    flat = matrices.reshape((traces.shape[0], -1))
    # Not the squares first, which overflow long before M does. No entry of a positive semi-definite
    # matrix is above its trace, so a dead layer leads nowhere; abs is for a matrix that is not.
    floor = MAXIMUM(ABS(traces), _SMALLEST_TRACE)
    return SUM(MUL(flat, DIV(flat, floor.reshape((-1, 1)))), 1)


def smallest_damping(a: Tensor, trace_a: Tensor, g: Tensor, trace_g: Tensor) -> Tensor:
    """The least product of the two factors' dampings per map that float32 can bear, [n].

    See :data:`SMALLEST_PRODUCT`.

    Args:
        a: entries of one factor of all maps, as in :func:`leading`.
        trace_a: its traces, [n].
        g: entries of the other.
        trace_g: its traces, [n].
    """
    return MUL(MUL(leading(a, trace_a), SMALLEST_PRODUCT), leading(g, trace_g))


def diagonal(start: int, blocks: int, size: int) -> Tensor:
    """Where the diagonals of blocks lie that begin at ``start`` of a vector, int32."""
    block = np.arange(blocks).reshape((-1, 1)) * size**2
    return Tensor((start + block + np.arange(size) * (size + 1)).reshape(-1).astype(np.int32))


def spreading(count: int, times: int) -> tuple[Callable[..., Tensor], Tensor]:
    """How each of ``count`` values is repeated: (f, numbers), for ``f(values, numbers, 0)``.

    Chosen when an object is made: a question in a graph is two functions to the compiler.
    """
    if times == 1:
        return _as_it_is, Tensor([0], ms.int32)
    return GATHER, Tensor(np.repeat(np.arange(count), times).astype(np.int32))


def _as_it_is(values: Tensor, numbers: Tensor, axis: int) -> Tensor:
    return values


def stack(blocks: Tensor) -> Tensor:
    """[n, blocks, size, size] -> [n * blocks, size, size]."""
    size = blocks.shape[-1]
    return blocks.reshape((-1, size, size))


def repeated(values: Tensor, count: int) -> Tensor:
    """A scalar, one value per layer, or one per map, repeated for its neighbours: [count]."""
    values = values.reshape((-1, 1))
    return MUL(values, ops.ones((1, count // values.shape[0]), ms.float32)).reshape((-1,))


def per_block(value: Tensor, blocks: Tensor) -> Tensor:
    """A scalar, one value per layer, or one per map, repeated for every block: [n * blocks]."""
    return repeated(value, blocks.shape[0] * blocks.shape[1])


def identity_blocks(layers: int, maps: int, layout: BlockLayout) -> np.ndarray:
    """float32 identity blocks, [L, maps, blocks, size, size]: no preconditioning."""
    eye = np.eye(layout.size, dtype=np.float32)
    shape = (layers, maps, layout.blocks, layout.size, layout.size)
    return np.broadcast_to(eye, shape).copy()
