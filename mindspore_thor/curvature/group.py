"""What a group's curvature looks like to the optimizer.

All covered layers of one geometry form a group of L layers. What a method stores of them has a
leading axis L; refreshing and preconditioning are batched over it. That keeps compiled graphs
small: they grow with the number of geometries, not of layers.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.common.initializer import initializer

from mindspore_thor.curvature.outcomes import Outcomes
from mindspore_thor.curvature.state import StateRows, state
from mindspore_thor.curvature.tokens import divisors, token_parts_of
from mindspore_thor.graph.operators import (
    ABS,
    ADD,
    AND,
    ASSIGN,
    CAST,
    CONCAT1,
    DIV,
    GREATER,
    ITEM,
    MAXIMUM,
    MUL,
    NOT_EQUAL,
    ONES_LIKE,
    OR,
    SELECT,
    SUB,
)
from mindspore_thor.graph.shared import Maker
from mindspore_thor.graph.slices import SLICE, column_shape, part
from mindspore_thor.linalg.sums import MAX_KEPT

FACTORS, SPECTRUM = 1, 2
"""What a step collects, as bits: ordinary statistics; those that need the current eigenbasis."""

_MAP = ops.Map()

META = 3
"""Last entries of every statistics vector: uses of the layer, positions T, samples N."""


def _good_or_stored(good: Tensor, value: Tensor, stored: Tensor) -> Tensor:
    shape = stored.shape
    return SELECT(good.reshape(column_shape(shape)), value.reshape(shape), stored)


def _divided(
    statistics: Tensor, divisors: tuple[Tensor, ...], start: int, length: int, kind: int
) -> Tensor:
    return DIV(part(statistics, start, length, 1), ITEM(divisors, kind))


def where_good(
    good: Tensor, values: tuple[Tensor, ...], stored: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """``values`` of the layers that are ``good``, boolean [L]; of the others the stored bits.

    Every array has the leading axis L, or can be reshaped to what is stored.
    """
    return _MAP(ops.partial(_good_or_stored, good), values, stored)


class GroupCurvature(nn.Cell):
    """Statistics, derived state and preconditioning of the L layers of one geometry.

    A subclass provides :meth:`make_rule` (what the backward pass computes), :meth:`collect` (how
    fresh statistics enter the stored ones) and :meth:`precondition`. What is derived every inverse
    interval comes from matrices that are solved for all groups together: ``solver`` names the job
    (see :mod:`mindspore_thor.linalg.inverse`), :meth:`problems` poses it and :meth:`install` takes
    the solutions (see :mod:`mindspore_thor.curvature.refresh`). All state is held in parameters, so
    a checkpoint of the optimizer is complete.

    A layer of several maps (a grouped convolution) has as many matrices; along the first axis of a
    batch of matrices the maps of a layer are neighbours.

    Args:
        name: prefix of the parameters' names, unique in the training step.
        layers: L.
        size: length of the statistics vector without its META tail; 0 where nothing is captured.
        decay: weight of the old statistics in their moving average; 0 replaces them. The first
            update always overwrites.
    """

    direct = False
    """Whether the backward pass itself returns the final gradient (see capture/direct.py)."""
    solver = ""
    """The job of this group's matrices; empty where it has none."""
    shared = True
    """Whether the statistics of all ranks are averaged."""
    selective = False
    """Whether the trace rule may skip a refresh."""
    stops = False
    """Whether the trace rule may stop a layer for good, which then collects nothing either."""
    outcomes: Outcomes
    first: int
    token_mode = ""
    """How inputs with a token axis are treated; empty where the layers see none."""
    token_parts = token_parts_of()
    """With a ``token_mode``, the parts of the statistics, in order."""
    starts_plain = True
    """Whether :meth:`precondition` returns the gradient itself until something was derived."""

    def __init__(self, name: str, layers: int, size: int, decay: float = 0.0) -> None:
        super().__init__(auto_prefix=False)
        self.layers = layers
        self.end = size
        self.size = size + META if size > 0 else 0
        self.decay = decay
        self.captures = size > 0
        self.entering_mean = self.moving_mean if decay > 0 else self.averaged
        if self.captures:
            self.statistics = state(np.zeros((layers, self.size), np.float32), f"{name}.statistics")
            self.make_probes(name)

    def bind(self, outcomes: Outcomes, first: int) -> None:
        """Say where the outcomes of this group's refreshes are kept.

        Args:
            outcomes: those of all groups.
            first: this group's first layer in them.
        """
        object.__setattr__(self, "outcomes", outcomes)  # it is no part of one group
        self.first = first

    @property
    def counts(self) -> StateRows:
        """Refreshes of every layer: accepted, kept, failed in all, failed in a row."""
        return StateRows(self.outcomes.counts, self.first, self.layers)

    @property
    def active(self) -> StateRows:
        """1 for every layer, 0 for one that is stopped."""
        return StateRows(self.outcomes.active, self.first, self.layers)

    def make_probes(self, name: str) -> None:
        """One probe a layer: what is differentiated by, whose "gradient" are the statistics.

        Their values are in no graph, and as long as an initializer stands for them take no memory.
        """
        values = [initializer("zeros", (self.size,), ms.float32) for _ in range(self.layers)]
        self.probes = ParameterTuple(
            [Parameter(value, name=f"{name}.probe{i}") for i, value in enumerate(values)]
        )

    def make_rule(self, make: Maker, rows: Any) -> nn.Cell:
        """The cell (x, out, dout, state) -> statistics that runs in the backward pass.

        Args:
            make: makes one cell for all layers that are alike; a rule holds constants only.
            rows: the layer's own geometry, which may differ from the group's in its stride.
        """
        raise TypeError(f"{type(self).__name__} captures nothing")

    def capture_state(self, layer: int, flag: Tensor) -> Tensor:
        """What the rule needs besides the layer's input, output and output gradient.

        It must be the result of an operator, not a parameter: a parameter read inside the backward
        rule would keep the compiler from pruning it. And it must be one tensor: a tuple that the
        forward pass does not use reaches the backward pass as zeros.

        Args:
            layer: number of the layer in the group.
            flag: whether it collects, int32 scalar; what is returned where nothing is needed.
        """
        return flag

    def collect(self, fresh: Tensor) -> bool:
        """Let fresh statistics [L, size] enter, averaged over a layer's uses in this pass.

        A layer used several times in one forward pass adds its statistics up: means are taken
        over the uses, and the positions of all uses count. No uses means that nothing was
        collected (a stopped layer, or one that this batch has no need of), and leaves everything
        as it is; so does a batch of padding.
        """
        used = self.entering(fresh)
        ASSIGN(self.statistics, SELECT(used, self.entering_mean(fresh), self.statistics))
        # A method without a result compiles to a call of the Python interpreter, on the host.
        return True

    def moving_mean(self, fresh: Tensor) -> Tensor:
        """The moving average of the stored statistics and fresh ones, [L, size]."""
        keep = self.kept_weight()
        return ADD(MUL(keep, self.statistics), MUL(SUB(1.0, keep), self.averaged(fresh)))

    def gradient_part(self) -> tuple[int, int]:
        """(start, count) of the statistics that are zero where the gradient is."""
        return 0, self.end

    def entering(self, fresh: Tensor) -> Tensor:
        """Which layers' fresh statistics count, boolean [L, 1]: those that were used.

        A batch without any gradient (a loss that is not switched on yet) is no first measurement:
        the steps that follow it would be far too long.
        """
        start, count = self.gradient_part()
        sizes = MAX_KEPT(ABS(part(fresh, start, count, 1)), 1)
        # The positions: they are zero where there are no uses, and where all are padding.
        used = GREATER(part(fresh, self.end + 1, 1, 1), 0.0)
        # Not "> 0": what is not finite must be seen.
        seen = OR(NOT_EQUAL(sizes, 0.0), self.has_statistics())
        return AND(used, seen)

    def averaged(self, fresh: Tensor) -> Tensor:
        """Statistics [L, size] that were added up over a layer's uses, as their mean."""
        uses = self.uses(fresh)
        positions = part(fresh, self.end + 1, 1, 1)
        samples = DIV(part(fresh, self.end + 2, 1, 1), uses)
        if self.token_mode == "":
            means = DIV(part(fresh, 0, self.end, 1), uses)
            return CONCAT1((means, ONES_LIKE(uses), positions, samples))
        found = divisors(self.token_mode, uses, positions)
        where = self.token_parts
        parts = _MAP(
            ops.partial(_divided, fresh, found), ITEM(where, 0), ITEM(where, 1), ITEM(where, 2)
        )
        return CONCAT1((*parts, ONES_LIKE(uses), ITEM(found, 3), samples))

    def uses(self, fresh: Tensor) -> Tensor:
        """How often each layer was used, and 1 for one that was not, [L, 1]."""
        return MAXIMUM(part(fresh, self.end, 1, 1), 1.0)

    def has_statistics(self) -> Tensor:
        """Which layers have collected something, boolean [L, 1]."""
        return GREATER(SLICE(self.statistics, (0, self.end), (self.layers, 1)), 0.0)

    def kept_weight(self) -> Tensor:
        """The weight of the stored statistics, [L, 1]: ``decay``, or 0 where none are stored."""
        return MUL(CAST(self.has_statistics(), ms.float32), self.decay)

    def observe(self, matrix: Tensor) -> None:
        """Let the step's gradients enter, [L * maps, d_out, d_in(+1)], where statistics are those.

        Called on the steps that collect, with gradients that are finite and free of the loss scale.
        """

    def ready(self) -> Tensor:
        """Which layers :meth:`precondition` has something for, boolean [L]; others stay plain."""
        counts = part(self.outcomes.counts, self.first, self.layers)
        return GREATER(part(counts, 0, 1, 1).reshape((-1,)), 0)

    def ready_layers(self) -> np.ndarray:
        """The same on the host."""
        return self.counts.asnumpy()[:, 0] > 0

    def positions(self) -> Tensor:
        """T, the number of shared positions, [L]."""
        return SLICE(self.statistics, (0, self.end + 1), (self.layers, 1)).reshape((-1,))

    def rank_state(self) -> tuple[Parameter, ...]:
        """State that belongs to the rank's own samples, which are its last axis."""
        return ()

    def exchanged(self) -> tuple[int, ...]:
        """Entries of each message that a layer's backward pass itself averages over all ranks.

        Where there are any, the layer's gradients leave the backward pass as means over the ranks.
        """
        return ()

    def symmetric(self) -> tuple[tuple[int, int, int], ...]:
        """(start, count, size) of the symmetric matrices in one layer's statistics."""
        return ()

    def stacks(self) -> tuple[tuple[int, int], ...]:
        """(matrices of one layer, their size) of every stack that :meth:`problems` returns."""
        return ()

    def derived(self) -> tuple[Parameter, ...]:
        """The parameters whose values :meth:`install` returns."""
        return ()

    def wanted(self) -> Tensor:
        """Above 0 for the layers whose statistics something could be derived from, float32 [L]."""
        return SLICE(self.statistics, (0, self.end), (self.layers, 1)).reshape((-1,))

    def candidates(self, damping: Tensor) -> Tensor:
        """What the trace rule judges, float32 [L]; asked of ``selective`` groups only."""
        return self.no_candidates(damping)

    def no_candidates(self, damping: Tensor) -> Tensor:
        """Zeros, float32 [L]: what stands in place of :meth:`candidates` for other groups."""
        return ops.zeros((self.layers,), ms.float32)

    def problems(self, damping: Tensor) -> tuple[Tensor, ...]:
        """Per stack its matrices, float32 [L * n, d, d], and their shifts (damping), [L * n]."""
        return ()

    def install(
        self, good: Tensor, damping: Tensor, solutions: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """New derived state from one solution per stack, [L * n, d, width].

        That of layers that are not ``good``, boolean [L], stays bit-identical.
        """
        return ()

    def precondition(self, matrix: Tensor, damping: Tensor) -> Tensor:
        """The preconditioned gradients, [L * maps, d_out, d_in(+1)] -> the same shape."""
        return matrix

    def direction(self, matrix: Tensor, damping: Tensor) -> Tensor:
        """:meth:`precondition` for the layers that are ready, the gradient itself for others."""
        found = self.precondition(matrix, damping)
        if self.starts_plain:
            return found
        maps = matrix.shape[0] // self.layers
        ready = ops.tile(self.ready().reshape((-1, 1)), (1, maps)).reshape((-1, 1, 1))
        return ops.where(ready, found, matrix)
