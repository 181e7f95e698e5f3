"""What every layer's curvature looks like to the optimizer."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops


def state(value: np.ndarray, name: str, *, probe: bool = False) -> Parameter:
    """A parameter of the training state; only a probe takes part in differentiation."""
    return Parameter(Tensor(value), name=name, requires_grad=probe)


class LayerCurvature(nn.Cell):
    """Statistics, derived state and preconditioning of one layer.

    A subclass provides :meth:`make_rule` (what the backward pass computes), :meth:`collect` (how
    fresh statistics enter the stored ones), :meth:`refresh` (what is derived every inverse
    interval) and :meth:`precondition`. All state is held in parameters, so a checkpoint of the
    optimizer is complete.

    Args:
        name: prefix of the parameters' names, unique in the training step.
        size: length of the statistics vector; 0 where nothing is captured.
    """

    def __init__(self, name: str, size: int) -> None:
        super().__init__(auto_prefix=False)
        self.size = size
        self.captures = size > 0
        if self.captures:
            self.statistics = state(np.zeros(size, np.float32), f"{name}.statistics", probe=True)
        # accepted, kept, failed in all, failed in a row
        self.counts = state(np.zeros(4, np.int32), f"{name}.counts")
        self.active = state(np.ones((), np.int32), f"{name}.active")

    def make_rule(self) -> nn.Cell:
        """The cell (x, dout, state) -> statistics that runs in the backward pass."""
        raise TypeError(f"{type(self).__name__} captures nothing")

    def capture_state(self) -> tuple[Tensor, ...]:
        """Parameters that the rule reads besides the input and the output gradient."""
        return (self.active,)

    def collect(self, fresh: Tensor) -> None:
        """Let fresh statistics enter; the default replaces the stored ones."""
        ops.assign(self.statistics, fresh)

    def refresh(self, damping: Tensor) -> None:
        """Derive what preconditioning needs from the statistics; the default derives nothing."""

    def precondition(self, matrix: Tensor, damping: Tensor) -> Tensor:
        """The preconditioned gradient, [groups, d_out, d_in(+1)] -> the same shape."""
        return matrix

    def count(self, accepted: int, kept: int, failed: int) -> None:
        """Add to the counters; a success ends a row of failures."""
        row = self.counts[3] * failed + failed
        head = self.counts[:3] + Tensor([accepted, kept, failed], ms.int32)
        ops.assign(self.counts, ops.concat((head, row.reshape((1,)))))
