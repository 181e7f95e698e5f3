"""What every layer's curvature looks like to the optimizer."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindspore_thor.curvature.alike import Maker
from mindspore_thor.linalg.slices import part


def state(value: np.ndarray, name: str, *, probe: bool = False) -> Parameter:
    """A parameter of the training state; only a probe takes part in differentiation."""
    return Parameter(Tensor(value), name=name, requires_grad=probe)


# The entries of a layer's counters: accepted, kept, failed in all, failed in a row.
_ACCEPTED = Tensor([1, 0, 0, 0], ms.int32)
_KEPT = Tensor([0, 1, 0, 0], ms.int32)
_FAILED = Tensor([0, 0, 1, 1], ms.int32)
_ROW = Tensor([0, 0, 0, 1], ms.int32)

_YES = Tensor(1, ms.int32)

FACTORS, SPECTRUM = 1, 2
"""What a step collects, as bits: ordinary statistics; those that need the current eigenbasis."""

META = 3
"""Last entries of every statistics vector: uses of the layer, positions T, samples N."""


# What many layers do is a function, not a method: the compiler parses a function once, but a method
# anew for every layer.


def tally(counts: Tensor, active: Tensor, decision: Tensor, sound: Tensor, again: bool) -> Tensor:
    """The counters int32 [4] after a refresh; see :meth:`LayerCurvature.settle`."""
    wanted = ops.cast(decision > 0, ms.int32)
    accepted = wanted * sound
    failed = wanted - accepted
    # A first failure and that of the second attempt are one.
    change = -wanted * _FAILED if again else (1 - wanted) * active * _KEPT
    counts = counts + change + failed * _FAILED
    return counts * (1 - accepted * _ROW) + accepted * _ACCEPTED


def take(
    good: Tensor, values: tuple[Tensor, ...], stored: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """``values`` in the shapes of ``stored`` where ``good``, else what is stored, bit by bit."""
    result: tuple[Tensor, ...] = ()
    for i in range(len(values)):
        result += (ops.where(good, values[i].reshape(stored[i].shape), stored[i]),)
    return result


class LayerCurvature(nn.Cell):
    """Statistics, derived state and preconditioning of one layer.

    A subclass provides :meth:`make_rule` (what the backward pass computes), :meth:`collect` (how
    fresh statistics enter the stored ones) and :meth:`precondition`. What is derived every inverse
    interval comes from matrices that are solved for all layers together: ``solver`` names the job
    (see :mod:`mindspore_thor.linalg.inverse`), :meth:`problems` poses it and :meth:`install` takes
    the solutions (see :mod:`mindspore_thor.curvature.refresh`). All state is held in parameters, so
    a checkpoint of the optimizer is complete.

    Args:
        name: prefix of the parameters' names, unique in the training step.
        size: length of the statistics vector without its META tail; 0 where nothing is captured.
        decay: weight of the old statistics in their moving average; 0 replaces them. The first
            update always overwrites.
    """

    direct = False
    """Whether the backward pass itself returns the final gradient (see curvature/direct.py)."""
    solver = ""
    """The job of this layer's matrices; empty where it has none."""
    shared = True
    """Whether the statistics of all ranks are averaged."""
    selective = False
    """Whether :meth:`decide` may skip a refresh."""

    def __init__(self, name: str, size: int, decay: float = 0.0) -> None:
        super().__init__(auto_prefix=False)
        self.end = size
        self.size = size + META if size > 0 else 0
        self.decay = decay
        self.captures = size > 0
        if self.captures:
            self.statistics = state(
                np.zeros(self.size, np.float32), f"{name}.statistics", probe=True
            )
        self.counts = state(np.zeros(4, np.int32), f"{name}.counts")
        self.active = state(np.ones((), np.int32), f"{name}.active")

    def make_rule(self, make: Maker) -> nn.Cell:
        """The cell (x, out, dout, state) -> statistics that runs in the backward pass.

        Args:
            make: makes one cell for all layers that are alike; a rule holds constants only.
        """
        raise TypeError(f"{type(self).__name__} captures nothing")

    def capture_state(self) -> Tensor:
        """What the rule needs besides the layer's input, output and output gradient.

        It must be the result of an operator, not a parameter: a parameter read inside the backward
        rule would keep the compiler from pruning it. And it must be one tensor: a tuple that the
        forward pass does not use reaches the backward pass as zeros.
        """
        return self.active * 1

    def collect(self, fresh: Tensor) -> bool:
        """Let fresh statistics enter, averaged over the layer's uses in this pass.

        A layer used several times in one forward pass adds its statistics up: means are taken
        over the uses, and the positions of all uses count. No uses means that nothing was
        collected (a stopped layer), and leaves everything as it is.
        """
        if part(fresh, self.end, 1).reshape(()) > 0:
            mean = self.averaged(fresh)
            if self.decay > 0:
                keep = self.kept_weight()
                mean = keep * self.statistics + (1.0 - keep) * mean
            ops.assign(self.statistics, mean)
        # A method that ends in a lazy branch without a result compiles to a call of the Python
        # interpreter, on the host.
        return True

    def averaged(self, fresh: Tensor) -> Tensor:
        """Statistics that were added up over the layer's uses, as their mean."""
        uses = part(fresh, self.end, 1)
        positions = part(fresh, self.end + 1, 1) * uses
        samples = part(fresh, self.end + 2, 1)
        return ops.concat((part(fresh, 0, self.end), uses, positions, samples)) / uses

    def kept_weight(self) -> Tensor:
        """The weight of the stored statistics: ``decay``, but 0 where nothing is stored yet."""
        stored = part(self.statistics, self.end, 1).reshape(()) > 0
        return self.decay * ops.cast(stored, ms.float32)

    def observe(self, matrix: Tensor) -> None:
        """Let the step's gradient enter, [groups, d_out, d_in(+1)], where statistics come from it.

        Called on the steps that collect, with gradients that are finite and free of the loss scale.
        """

    def positions(self) -> Tensor:
        """T, the number of shared positions."""
        return part(self.statistics, self.end + 1, 1).reshape(())

    def rank_state(self) -> tuple[Parameter, ...]:
        """State that belongs to the rank's own samples, which are its last axis."""
        return ()

    def exchanged(self) -> tuple[int, ...]:
        """Entries of each message that the layer's backward pass itself averages over all ranks.

        Where there are any, the layer's gradients leave the backward pass as means over the ranks.
        """
        return ()

    def symmetric(self) -> tuple[tuple[int, int, int], ...]:
        """(start, count, size) of the symmetric matrices in the statistics."""
        return ()

    def stacks(self) -> tuple[tuple[int, int], ...]:
        """(number of matrices, their size) of every stack that :meth:`problems` returns."""
        return ()

    def derived(self) -> tuple[Parameter, ...]:
        """The parameters whose values :meth:`install` returns."""
        return ()

    def counters(self) -> tuple[Parameter, ...]:
        """The parameters whose values :meth:`settle` returns."""
        return (self.counts,)

    def decide(self, damping: Tensor) -> tuple[Tensor, Tensor]:
        """Whether to refresh: 1 yes, 0 not now, -1 never again; and a number to remember."""
        return _YES, damping

    def problems(self, damping: Tensor) -> tuple[Tensor, ...]:
        """Per stack its matrices, float32 [n, d, d], and their shifts (damping), [n]."""
        return ()

    def install(
        self, good: Tensor, damping: Tensor, solutions: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """New derived state from one solution per stack, [n, d, width], where ``good``.

        Elsewhere it stays bit-identical.
        """
        return ()

    def settle(
        self, decision: Tensor, sound: Tensor, candidate: Tensor, again: bool
    ) -> tuple[Tensor, ...]:
        """New counters after a refresh, or after a second attempt where ``again``.

        Args:
            decision: what :meth:`decide` said; in a second attempt 1 where there was one.
            sound: int32, 1 where all solutions were sound.
            candidate: the number to remember.
            again: whether this was a second attempt.
        """
        return (tally(self.counts, self.active, decision, sound, again),)

    def precondition(self, matrix: Tensor, damping: Tensor) -> Tensor:
        """The preconditioned gradient, [groups, d_out, d_in(+1)] -> the same shape."""
        return matrix

    def count(self, accepted: Tensor, kept: Tensor, failed: Tensor) -> None:
        """Add to the counters, each 0 or 1; a success ends a row of failures."""
        counts = self.counts + kept * _KEPT + failed * _FAILED
        ops.assign(self.counts, counts * (1 - accepted * _ROW) + accepted * _ACCEPTED)
