"""Statistics from a pass of their own, before the step (methods with ``measures_first``)."""

from __future__ import annotations

from mindspore import Tensor

from mindspore_thor.graph.kind import MEASURE
from mindspore_thor.step.backward import Backward, StepGraph
from mindspore_thor.step.graphs import WholeStep
from mindspore_thor.step.guard import Guard


class MeasureStep(StepGraph):
    """The pass before a step, by the probes alone: no weight gradient is in its graph.

    Args:
        backward: loss and gradients of the probes.
        guard: undoes what the pass leaves behind in BatchNorm.
    """

    kind = MEASURE
    title = "the measuring pass"

    def __init__(self, backward: Backward, guard: Guard) -> None:
        super().__init__(auto_prefix=False)
        self.backward = backward
        self.guard = guard
        self.optimizer = guard.optimizer

    def construct(self, *inputs: Tensor) -> Tensor:
        """A batch -> whether all is finite; then its statistics have entered the optimizer."""
        _, statistics, finite = self.backward(*inputs)
        if finite:
            self.optimizer.collect(statistics)
        self.guard.rewind()
        return finite


class MeasuredStep(StepGraph):
    """The pass before a step, the refresh and the step in one graph, each where it is due."""

    def __init__(self, measure: MeasureStep, plain: WholeStep) -> None:
        super().__init__(auto_prefix=False)
        self.measure = measure
        self.plain = plain
        self.optimizer = plain.optimizer

    def construct(self, *inputs: Tensor) -> Tensor:
        """A batch -> its loss."""
        if self.optimizer.due > 0:
            self.measure(*inputs)
        if self.optimizer.refresh_due():
            self.optimizer.refresh_and_retry()
        return self.plain(*inputs)
