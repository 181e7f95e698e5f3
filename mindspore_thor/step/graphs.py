"""The graphs that a step consists of: backward passes, refresh and retry, update."""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, Tensor

from mindspore_thor.cache.compile_cache import StoredGraph
from mindspore_thor.curvature.group import SPECTRUM
from mindspore_thor.graph.kind import ANY, OWN, PLAIN
from mindspore_thor.graph.operators import ASSIGN, ITEM, SECTION
from mindspore_thor.optim.base import SecondOrder
from mindspore_thor.parallel.communication import world
from mindspore_thor.step.backward import Backward, StepGraph
from mindspore_thor.step.guard import Guard
from mindspore_thor.step.inputs import Path, batch_size


class WholeStep(StepGraph):
    """Backward pass and update in one graph.

    Args:
        backward: loss and gradients.
        guard: what becomes of a non-finite step.
        samples: parameter that receives the batch size over all ranks, or None.
        update_only: use the optimizer's ``update`` instead of all its phases.
    """

    kind = ANY
    title = "the step"

    def __init__(
        self, backward: Backward, guard: Guard, samples: Parameter | None, update_only: bool
    ) -> None:
        super().__init__(auto_prefix=False)
        self.backward = backward
        self.guard = guard
        self.optimizer = guard.optimizer
        self.samples = samples
        self.path: Path = (0,)
        self.ranks = world()[1]
        # Chosen here rather than asked in the graph, see Backward.
        optimizer = guard.optimizer
        self.begin = self.nothing if samples is None else self.note_samples
        if not isinstance(optimizer, SecondOrder):
            self.refresh, self.apply = self.nothing, self.call_optimizer
        elif update_only:
            self.refresh, self.apply = self.nothing, self.only_update
        else:
            self.refresh = self.refresh_stored
            self.apply = self.remeasured if optimizer.remeasures else self.all_phases
            self.passed = slice(None, optimizer.passed_count)

    def construct(self, *inputs: Tensor) -> Tensor:
        """A batch -> its loss."""
        self.begin(inputs)
        found = self.backward(*inputs)
        self.refresh(inputs)
        if ITEM(found, 2):
            self.apply(inputs, ITEM(found, 1))
            self.guard.accept()
        else:
            self.guard.reject()
        return ITEM(found, 0)

    def nothing(self, inputs: tuple[Tensor, ...]) -> bool:
        """What there is to do before an optimizer of another kind."""
        return True  # see GroupCurvature.collect

    def note_samples(self, inputs: tuple[Tensor, ...]) -> bool:
        """Tell the optimizer the batch size."""
        ASSIGN(self.samples, Tensor(batch_size(inputs, self.path) * self.ranks, ms.int32))
        return True

    def refresh_stored(self, inputs: tuple[Tensor, ...]) -> bool:
        """Refresh from stored statistics, where that is due."""
        return self.optimizer.refresh_stored()

    def call_optimizer(self, inputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> bool:
        """MindSpore's own optimizers, or a first-order method."""
        self.optimizer(gradients)
        return True

    def only_update(self, inputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> bool:
        """The update of gradients without statistics."""
        return self.optimizer.update(gradients)

    def all_phases(self, inputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> bool:
        """Statistics, refresh and update, each where it is due."""
        return self.optimizer.take(gradients)

    def remeasured(self, inputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> bool:
        """The same with a second pass, which sees what was refreshed."""
        self.optimizer.prepare(gradients)
        if self.optimizer.due == SPECTRUM:
            self.remeasure(*inputs)
        return self.optimizer.update(SECTION(gradients, self.passed))

    def remeasure(self, *inputs: Tensor) -> bool:
        """A second pass over the batch, whose statistics see what was refreshed."""
        self.guard.rewind()
        _, gradients, finite = self.backward(*inputs)
        if finite:
            self.optimizer.collect(gradients)
        return True  # see GroupCurvature.collect


class PlainStep(StepGraph):
    """Backward pass of the plain network: its graph holds nothing that only other steps need.

    Args:
        backward: loss and gradients.
        optimizer: whose ``samples`` receives the batch size over all ranks.
    """

    kind = PLAIN
    title = "the backward pass"
    optimizer: SecondOrder

    def __init__(self, backward: Backward, optimizer: SecondOrder) -> None:
        super().__init__(auto_prefix=False)
        self.backward = backward
        self.optimizer = optimizer
        self.samples = optimizer.samples
        self.passed = slice(None, optimizer.passed_count)
        self.path: Path = (0,)
        self.ranks = world()[1]

    def construct(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """A batch -> loss, gradients of the weights, whether all is finite."""
        ASSIGN(self.samples, Tensor(batch_size(inputs, self.path) * self.ranks, ms.int32))
        return self.backward(*inputs)


class CaptureStep(PlainStep):
    """Backward pass with statistics; they enter the optimizer where all is finite."""

    kind = OWN
    title = "the backward pass with statistics"

    def construct(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """A batch -> loss, gradients of the weights, whether all is finite."""
        ASSIGN(self.samples, Tensor(batch_size(inputs, self.path) * self.ranks, ms.int32))
        found = self.backward(*inputs)
        gradients, finite = ITEM(found, 1), ITEM(found, 2)
        if finite:
            self.optimizer.collect(gradients)
        return ITEM(found, 0), SECTION(gradients, self.passed), finite


class RefreshStep(StoredGraph):
    """The inverses alone."""

    title = "the refresh of the curvature"

    def __init__(self, guard: Guard) -> None:
        super().__init__(auto_prefix=False)
        self.guard = guard
        self.optimizer = guard.optimizer

    def construct(self) -> Tensor:
        """Refresh every layer; a second pass over the batch starts from where the first one did."""
        self.optimizer.refresh()
        if self.optimizer.remeasures:
            self.guard.rewind()
        return self.optimizer.step_number()


class RetryStep(RefreshStep):
    """The inverses that failed, with more damping."""

    title = "the second attempt at a refresh"

    def construct(self) -> Tensor:
        """Refresh the failed layers."""
        self.optimizer.retry()
        return self.optimizer.step_number()


class ApplyStep(StoredGraph):
    """The update alone, for gradients that a backward pass returned."""

    title = "the update"

    def __init__(self, guard: Guard) -> None:
        super().__init__(auto_prefix=False)
        self.guard = guard
        self.optimizer = guard.optimizer

    def construct(self, finite: Tensor, *gradients: Tensor) -> Tensor:
        """Whether the gradients are finite, and the gradients.

        They are separate inputs because MindSpore treats a tuple argument as a constant.
        """
        if finite:
            self.optimizer.update(gradients)
            self.guard.accept()
        else:
            self.guard.reject()
        return finite
