"""What every layer's curvature looks like to the optimizer."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops


def state(value: np.ndarray, name: str, *, probe: bool = False) -> Parameter:
    """A parameter of the training state; only a probe takes part in differentiation."""
    return Parameter(Tensor(value), name=name, requires_grad=probe)


# The entries of a layer's counters: accepted, kept, failed in all, failed in a row.
_ACCEPTED = Tensor([1, 0, 0, 0], ms.int32)
_KEPT = Tensor([0, 1, 0, 0], ms.int32)
_FAILED = Tensor([0, 0, 1, 1], ms.int32)
_ROW = Tensor([0, 0, 0, 1], ms.int32)

META = 3
"""Last entries of every statistics vector: uses of the layer, positions T, samples N."""


class LayerCurvature(nn.Cell):
    """Statistics, derived state and preconditioning of one layer.

    A subclass provides :meth:`make_rule` (what the backward pass computes), :meth:`collect` (how
    fresh statistics enter the stored ones), :meth:`refresh` (what is derived every inverse
    interval) and :meth:`precondition`. All state is held in parameters, so a checkpoint of the
    optimizer is complete.

    Args:
        name: prefix of the parameters' names, unique in the training step.
        size: length of the statistics vector without its META tail; 0 where nothing is captured.
        decay: weight of the old statistics in their moving average; 0 replaces them. The first
            update always overwrites.
    """

    direct = False
    """Whether the backward pass itself returns the final gradient (see curvature/direct.py)."""

    def __init__(self, name: str, size: int, decay: float = 0.0) -> None:
        super().__init__(auto_prefix=False)
        self.end = size
        self.size = size + META if size > 0 else 0
        self.decay = decay
        self.captures = size > 0
        if self.captures:
            self.statistics = state(np.zeros(self.size, np.float32), f"{name}.statistics", probe=True)
        self.counts = state(np.zeros(4, np.int32), f"{name}.counts")
        self.active = state(np.ones((), np.int32), f"{name}.active")

    def make_rule(self) -> nn.Cell:
        """The cell (x, out, dout, state) -> statistics that runs in the backward pass."""
        raise TypeError(f"{type(self).__name__} captures nothing")

    def capture_state(self) -> tuple[Tensor, ...]:
        """Values that the rule needs besides the layer's input, output and output gradient.

        They must be the results of operators, not parameters: a parameter read inside the backward
        rule would keep the compiler from pruning it.
        """
        return (self.active * 1,)

    def collect(self, fresh: Tensor) -> None:
        """Let fresh statistics enter, averaged over the layer's uses in this pass.

        A layer used several times in one forward pass adds its statistics up: means are taken
        over the uses, and the positions of all uses count. No uses means that nothing was
        collected (a stopped layer), and leaves everything as it is.
        """
        uses = fresh[self.end]
        if uses > 0:
            tail = ops.stack((uses, fresh[self.end + 1] * uses, fresh[self.end + 2]))
            mean = ops.concat((fresh[: self.end], tail)) / uses
            if self.decay > 0:
                first = ops.cast(self.statistics[self.end] == 0, ms.float32)
                keep = self.decay * (1.0 - first)
                mean = keep * self.statistics + (1.0 - keep) * mean
            ops.assign(self.statistics, mean)

    def positions(self) -> Tensor:
        """T, the number of shared positions."""
        return self.statistics[self.end + 1]

    def refresh(self, damping: Tensor) -> None:
        """Derive what preconditioning needs from the statistics; the default derives nothing."""

    def retry(self, damping: Tensor) -> None:
        """Refresh again with this larger damping if the last refresh failed."""
        if self.counts[3] > 0:
            self.refresh(damping)

    def precondition(self, matrix: Tensor, damping: Tensor) -> Tensor:
        """The preconditioned gradient, [groups, d_out, d_in(+1)] -> the same shape."""
        return matrix

    def count(self, accepted: Tensor, kept: Tensor, failed: Tensor) -> None:
        """Add to the counters, each 0 or 1; a success ends a row of failures."""
        counts = self.counts + kept * _KEPT + failed * _FAILED
        ops.assign(self.counts, counts * (1 - accepted * _ROW) + accepted * _ACCEPTED)
