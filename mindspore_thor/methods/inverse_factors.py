"""Preconditioning by inverted Kronecker factors: THOR (blocks, trace rule) and KFAC (whole)."""

from __future__ import annotations

from mindspore import Parameter, Tensor

from mindspore_thor.curvature.group import where_good
from mindspore_thor.curvature.state import state
from mindspore_thor.graph.operators import DIV, GATHER, ITEM, MAXIMUM, MUL, SQRT
from mindspore_thor.graph.slices import SLICE
from mindspore_thor.layers.rows import Rows
from mindspore_thor.linalg.blocks import BlockProduct
from mindspore_thor.linalg.inverse import INVERSE
from mindspore_thor.linalg.sums import SUM
from mindspore_thor.methods.kronecker import (
    KroneckerCurvature,
    diagonal,
    identity_blocks,
    smallest_damping,
    spreading,
)
from mindspore_thor.methods.trace_rule import TraceRule

# Each splits a layer's damping x = lam / T, one per map, into one value for A and one for G, given
# trA / d_in and trG / d_out.


def _both(damping: Tensor, mean_a: Tensor, mean_g: Tensor) -> tuple[Tensor, Tensor]:
    return damping, damping


def _roots(damping: Tensor, mean_a: Tensor, mean_g: Tensor) -> tuple[Tensor, Tensor]:
    root = SQRT(damping)
    return root, root


def _balanced(damping: Tensor, mean_a: Tensor, mean_g: Tensor) -> tuple[Tensor, Tensor]:
    root = SQRT(damping)
    # A factor of zeros (a dead layer) must not turn pi into 0/0.
    pi = SQRT(DIV(MAXIMUM(mean_a, 1e-12), MAXIMUM(mean_g, 1e-12)))
    return MUL(root, pi), DIV(root, pi)


PAPER = "paper"
SPLITS = {"sqrt": _roots, PAPER: _both, "pi": _balanced}
"""How a damping is split, by ``damping_mode``: ``"sqrt"`` adds sqrt(x) to both factors (MindSpore's
THOR), ``"paper"`` adds x to both (THOR Eq. 6), ``"pi"`` adds sqrt(x) pi to A and sqrt(x) / pi to G
with pi^2 = (trA / d_in) / (trG / d_out) (Martens & Grosse 2015)."""


class InverseFactors(KroneckerCurvature):
    """V = (1/T) (G + d_G I)^-1 D (A + d_A I)^-1 on diagonal blocks.

    Args:
        name: prefix of the parameters' names.
        layers: L.
        rows: the layers' geometry.
        homogeneous: whether the bias is part of the matrix.
        split_dim: block size, or None for whole factors.
        decay: moving average of the factors, 0 for none.
        damping_mode: see :data:`SPLITS`.
        rule: the trace rule, or None where every refresh inverts.
    """

    solver = INVERSE

    def __init__(
        self,
        name: str,
        layers: int,
        rows: Rows,
        homogeneous: bool,
        split_dim: int | None,
        decay: float,
        damping_mode: str,
        rule: TraceRule | None = None,
    ) -> None:
        super().__init__(name, layers, rows, homogeneous, split_dim, decay)
        self.split_damping = SPLITS[damping_mode]
        self.bounded = self.given if damping_mode == PAPER else self.at_least
        maps = rows.groups
        self.product = BlockProduct(layers * maps, self.left, self.right)
        self.inverse_a = state(identity_blocks(layers, maps, self.right), f"{name}.inverse_a")
        self.inverse_g = state(identity_blocks(layers, maps, self.left), f"{name}.inverse_g")
        self.selective = rule is not None
        if rule is not None:
            self.rule = rule
            self.stops = rule.w2 > 0
        self.trace_shape = (layers, maps, -1)
        self.shape_a = (-1, self.right.size, self.right.size)
        self.shape_g = (-1, self.left.size, self.left.size)
        self.diagonal_a = diagonal(0, maps * self.right.blocks, self.right.size)
        self.diagonal_g = diagonal(self.end_a, maps * self.left.blocks, self.left.size)
        # For every map, and for every block of A and of G, the value of its map or layer.
        self.for_maps, self.layer_of_map = spreading(layers, maps)
        self.for_a, self.map_of_a = spreading(layers * maps, self.right.blocks)
        self.for_g, self.map_of_g = spreading(layers * maps, self.left.blocks)
        self.for_all_a, self.layer_of_a = spreading(layers, maps * self.right.blocks)

    def derived(self) -> tuple[Parameter, ...]:
        """Both inverses."""
        return self.inverse_a, self.inverse_g

    def traces(self) -> tuple[Tensor, Tensor]:
        """The traces of A and of G, [L, maps]."""
        a = SUM(GATHER(self.statistics, self.diagonal_a, 1).reshape(self.trace_shape), 2)
        return a, SUM(GATHER(self.statistics, self.diagonal_g, 1).reshape(self.trace_shape), 2)

    def shared_positions(self) -> Tensor:
        """T, [L]; 1 for a layer that has collected nothing, of whose factors nothing is made."""
        # Not by positions(): that would be one more function wherever T is asked for.
        positions = SLICE(self.statistics, (0, self.end + 1), (self.layers, 1))
        return MAXIMUM(positions.reshape((-1,)), 1.0)

    def candidates(self, damping: Tensor) -> Tensor:
        """The traces tr(F + lam I), [L] (methods section 1.2)."""
        traces = self.traces()
        d_in, d_out = self.right.dim, self.left.dim
        positions = self.shared_positions()
        return self.rule.total(ITEM(traces, 0), ITEM(traces, 1), positions, damping, d_in, d_out)

    def problems(self, damping: Tensor) -> tuple[Tensor, ...]:
        """The blocks of A and of G with each factor's damping.

        The product of the two dampings, x, has a floor, see
        :data:`~mindspore_thor.methods.kronecker.SMALLEST_PRODUCT`. Not in the mode ``"paper"``,
        where it is x^2 and the floor would reach dampings that people use; inversions that float32
        cannot do fail there, and are counted.
        """
        a = SLICE(self.statistics, (0, 0), (self.layers, self.end_a))
        g = SLICE(self.statistics, (0, self.end_a), (self.layers, self.end_g - self.end_a))
        traces = self.traces()
        trace_a = ITEM(traces, 0).reshape((-1,))
        trace_g = ITEM(traces, 1).reshape((-1,))
        share = self.for_maps(DIV(damping, self.shared_positions()), self.layer_of_map, 0)
        share = self.bounded(share, a, trace_a, g, trace_g)
        mean_a = DIV(trace_a, self.right.dim)
        mean_g = DIV(trace_g, self.left.dim)
        dampings = self.split_damping(share, mean_a, mean_g)
        damping_a = self.for_a(ITEM(dampings, 0), self.map_of_a, 0)
        damping_g = self.for_g(ITEM(dampings, 1), self.map_of_g, 0)
        return a.reshape(self.shape_a), damping_a, g.reshape(self.shape_g), damping_g

    def given(
        self, damping: Tensor, a: Tensor, trace_a: Tensor, g: Tensor, trace_g: Tensor
    ) -> Tensor:
        """The dampings, [n] for n maps, as they are."""
        return damping

    def at_least(
        self, damping: Tensor, a: Tensor, trace_a: Tensor, g: Tensor, trace_g: Tensor
    ) -> Tensor:
        """The dampings, [n], or their floor: ``smallest_damping`` of the same arguments."""
        return MAXIMUM(damping, smallest_damping(a, trace_a, g, trace_g))

    def install(
        self, good: Tensor, damping: Tensor, solutions: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Take both inverses; where one failed the last good ones of both stay."""
        # The 1/T of the convolution rule is folded into one factor: it costs nothing later.
        share = self.for_all_a(self.shared_positions(), self.layer_of_a, 0).reshape((-1, 1, 1))
        values = (DIV(ITEM(solutions, 0), share), ITEM(solutions, 1))
        return where_good(good, values, (self.inverse_a, self.inverse_g))

    def precondition(self, matrix: Tensor, damping: Tensor) -> Tensor:
        """G^-1 D A^-1 with the stored inverses (and the damping that they were made with)."""
        return self.product(self.inverse_g, matrix, self.inverse_a)
