"""What became of the refreshes of all layers: vectors over the layers of all groups.

One vector for all layers, not one for every group: what is decided and counted in a refresh is then
a few operators of the compiled graph, however many groups there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindspore_thor.curvature.state import state
from mindspore_thor.graph.operators import (
    ADD,
    AND,
    ASSIGN,
    CAST,
    GREATER,
    GREATER_EQUAL,
    LESS,
    MUL,
    ONES_LIKE,
    OR,
    SELECT,
    SUB,
    ZEROS_LIKE,
)
from mindspore_thor.graph.slices import part

_ONE = Tensor(1, ms.int32)  # not a number, which PyNative mode takes for an int64

# The columns of the counters: accepted, kept, failed in all, failed in a row.
_ACCEPTED = Tensor([[1, 0, 0, 0]], ms.int32)
_KEPT = Tensor([[0, 1, 0, 0]], ms.int32)
_FAILED = Tensor([[0, 0, 1, 1]], ms.int32)
_ROW = Tensor([[0, 0, 0, 1]], ms.int32)


class Layers(Protocol):
    """What is asked of a group here: how many layers it has, and whether the rule judges them."""

    layers: int
    selective: bool


def counted(counts: Tensor, accepted: Tensor, kept: Tensor, failed: Tensor) -> Tensor:
    """New counters int32 [n, 4] from those of a step, int32 [n, 1]; a success ends a row."""
    counts = ADD(counts, ADD(MUL(kept, _KEPT), MUL(failed, _FAILED)))
    return ADD(MUL(counts, SUB(_ONE, MUL(accepted, _ROW))), MUL(accepted, _ACCEPTED))


class Outcomes(nn.Cell):
    """Counters, stops, and what the trace rule remembers, of n layers.

    Args:
        name: prefix of the parameters' names, unique in the training step.
        groups: whose layers they are, in this order.
        rule: decides which of the ``selective`` groups' layers are refreshed, with ``decide`` and
            ``against_previous`` (see :class:`~mindspore_thor.methods.trace_rule.TraceRule`); None
            where every refresh is made.
    """

    def __init__(self, name: str, groups: Sequence[Layers], rule: Any = None) -> None:
        super().__init__(auto_prefix=False)
        layers = [group.layers for group in groups]
        n = sum(layers)
        self.counts = state(np.zeros((n, 4), np.int32), f"{name}.counts")
        self.active = state(np.ones((n,), np.int32), f"{name}.active")
        self.ruled = rule is not None
        self.decide = self.decide_by_rule if self.ruled else self.decide_by_use
        if rule is not None:
            self.rule = rule
            self.trace_baseline = state(np.full((n,), -1.0, np.float32), f"{name}.trace_baseline")
            selective = np.repeat([group.selective for group in groups], layers)
            self.selective = Tensor(selective)
            self.all_selective = bool(selective.all())

    def decide_by_rule(self, wanted: Tensor, candidates: Tensor) -> Tensor:
        """Whether to refresh, int32 [n]: 1 for yes, 0 for not now, -1 for never again.

        Args:
            wanted: int32 [n], 1 where there are statistics.
            candidates: what the rule judges, float32 [n]; where there is no rule, anything.
        """
        decisions = self.rule.decide(candidates, self.trace_baseline)
        if not self.all_selective:
            decisions = SELECT(self.selective, decisions, ONES_LIKE(decisions))
        return MUL(MUL(decisions, self.active), wanted)

    def decide_by_use(self, wanted: Tensor, candidates: Tensor) -> Tensor:
        """The same without a rule: wherever there are statistics."""
        return wanted

    def failing(self) -> Tensor:
        """Which layers' last refresh failed, int32 [n]."""
        return CAST(GREATER(part(self.counts, 3, 1, 1).reshape((-1,)), 0), ms.int32)

    def record(
        self, decisions: Tensor, sound: Tensor, wanted: Tensor, candidates: Tensor, again: bool
    ) -> bool:
        """Count what became of a refresh.

        Args:
            decisions: int32 [n], above 0 where a refresh was tried, below for a layer that stops.
            sound: int32 [n], 1 where all solutions were sound.
            wanted: see :meth:`decide_by_rule`.
            candidates: see there.
            again: whether this was a second attempt.
        """
        tried = CAST(GREATER(decisions, 0), ms.int32).reshape((-1, 1))
        accepted = MUL(tried, sound.reshape((-1, 1)))
        failed = SUB(tried, accepted)
        if again:
            # A first failure and that of the second attempt are one.
            counts = SUB(self.counts, MUL(tried, _FAILED))
            kept = ZEROS_LIKE(tried)
        else:
            counts = self.counts
            kept = MUL(SUB(_ONE, tried), self.active.reshape((-1, 1)))
        counts = counted(counts, accepted, kept, failed)
        if self.ruled:
            # Only a factor whose inverse is in use is an accepted one.
            replaced = GREATER(MUL(decisions, sound), 0)
            if self.rule.against_previous and not again:
                passed = AND(LESS(decisions, 1), GREATER(wanted, 0))
                replaced = OR(replaced, passed)
            baseline = SELECT(replaced, candidates, self.trace_baseline)
            active = MUL(self.active, CAST(GREATER_EQUAL(decisions, 0), ms.int32))
            ASSIGN(self.trace_baseline, baseline)
            ASSIGN(self.active, active)
        ASSIGN(self.counts, counts)
        return True  # without a result a method compiles to a call of Python
