"""Gradient accumulation: several micro-batches, one update."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops

from mindspore_thor.cache.compile_cache import StoredGraph
from mindspore_thor.curvature.state import state
from mindspore_thor.errors import UserError
from mindspore_thor.optim.base import SecondOrder
from mindspore_thor.parallel.communication import world
from mindspore_thor.step.backward import Backward, StepGraph
from mindspore_thor.step.guard import Guard
from mindspore_thor.step.inputs import Path, batch_size


@ops.constexpr
def refuse_one_graph() -> None:
    """Raise: the micro-batches of an update are told apart from Python."""
    raise UserError(
        "accumulate > 1 does not work where the step is compiled into another graph: train without "
        "data sinking (dataset_sink_mode=False), or with accumulate=1"
    )


class MicroBatches(nn.Cell):
    """Sums over the micro-batches so far: gradients, statistics, and whether all were finite.

    Args:
        parameters: what gradients are taken by; statistics are those of the probes.
        count: micro-batches per update.
    """

    def __init__(self, parameters: ParameterTuple, count: int) -> None:
        super().__init__(auto_prefix=False)
        self.share = 1.0 / count
        zeros = [state(np.zeros(p.shape, np.float32), f"accumulated.{p.name}") for p in parameters]
        self.means = ParameterTuple(zeros)
        self.good = state(np.ones((), np.int32), "accumulated.good")
        self.batches = state(np.zeros((), np.int32), "accumulated.batches")
        self.samples = state(np.zeros((), np.int32), "accumulated.samples")

    def add(self, gradients: tuple[Tensor, ...], finite: Tensor, samples: int) -> None:
        """Let one micro-batch enter the means."""
        for i in range(len(gradients)):
            ops.assign_add(self.means[i], ops.cast(gradients[i], ms.float32) * self.share)
        ops.assign(self.good, self.good * ops.cast(finite, ms.int32))
        ops.assign_add(self.batches, ops.ones_like(self.batches))
        ops.assign_add(self.samples, samples * ops.ones_like(self.samples))

    def mean(self, count: int) -> tuple[Tensor, ...]:
        """The means of the first ``count`` parameters."""
        result: tuple[Tensor, ...] = ()
        for i in range(count):
            result += (self.means[i] * 1.0,)
        return result

    def clear(self) -> None:
        """Begin the next update."""
        for i in range(len(self.means)):
            ops.assign(self.means[i], ops.zeros_like(self.means[i]))
        ops.assign(self.good, ops.ones_like(self.good))
        ops.assign(self.batches, ops.zeros_like(self.batches))
        ops.assign(self.samples, ops.zeros_like(self.samples))


class AddStep(StepGraph):
    """Backward pass of one micro-batch."""

    title = "the backward pass of a micro-batch"

    def __init__(self, backward: Backward, sums: MicroBatches, optimizer: nn.Optimizer) -> None:
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer
        self.backward = backward
        self.sums = sums
        self.path: Path = (0,)
        self.ranks = world()[1]

    def construct(self, *inputs: Tensor) -> Tensor:
        """A micro-batch -> its loss."""
        loss, gradients, finite = self.backward(*inputs)
        self.sums.add(gradients, finite, batch_size(inputs, self.path) * self.ranks)
        return loss


class CollectStep(StepGraph):
    """The mean statistics enter the optimizer where all micro-batches were finite."""

    title = "the collection of the statistics"

    def __init__(self, sums: MicroBatches, optimizer: SecondOrder) -> None:
        super().__init__(auto_prefix=False)
        self.sums = sums
        self.optimizer = optimizer

    def construct(self) -> Tensor:
        """The step's number."""
        if self.sums.good > 0:
            self.optimizer.collect(self.sums.mean(len(self.sums.means)))
        # Not the condition itself: where both branches return that, the compiler drops the branch.
        return self.optimizer.step_number()


class UpdateStep(StoredGraph):
    """The update with the mean gradients, or none where a micro-batch was not finite."""

    title = "the update"

    def __init__(self, sums: MicroBatches, guard: Guard, count: int) -> None:
        super().__init__(auto_prefix=False)
        self.sums = sums
        self.guard = guard
        self.optimizer = guard.optimizer
        self.second_order = guard.second_order
        self.count = count

    def construct(self) -> Tensor:
        """Update, and begin the next accumulation."""
        gradients = self.sums.mean(self.count)
        good = self.sums.good > 0
        if self.second_order:
            ops.assign(self.optimizer.samples, self.sums.samples)
        if good:
            if self.second_order:
                self.optimizer.update(gradients)
            else:
                self.optimizer(gradients)
            self.guard.accept()
        else:
            self.guard.reject()
        self.sums.clear()
        return good


class AccumulatedStep(nn.Cell):
    """One update from the mean gradient, and the mean statistics, of several micro-batches.

    Both are means over samples, so one update equals that of one batch as large as all
    micro-batches together, as far as the network treats samples independently: BatchNorm normalises
    every micro-batch by itself. Under a mean over real tokens the gradients of micro-batches weigh
    alike, however many tokens each has; statistics of real tokens are averaged as sums, and divided
    by the average number of tokens. Intervals and schedules count updates. A micro-batch that is
    not finite costs the whole update. The sums are parameters of the training step, so a run can be
    resumed exactly between any two micro-batches.

    Args:
        guard: what becomes of a non-finite update.
        count: micro-batches per update, all of one size.
        plain: loss and gradients of the weights.
        capture: loss and gradients of weights and probes, where the method has any.

    Raises:
        UserError: for a method whose update is no function of such means.
    """

    def __init__(
        self, guard: Guard, count: int, plain: Backward, capture: Backward | None = None
    ) -> None:
        super().__init__(auto_prefix=False)
        optimizer = guard.optimizer
        if guard.second_order and optimizer.needs_whole_batch:
            raise UserError(
                f"{type(optimizer).__name__} cannot accumulate gradients, "
                f"{optimizer.needs_whole_batch}: use accumulate=1 with a larger batch, or another "
                "method"
            )
        self.count = count
        self.sums = MicroBatches((plain if capture is None else capture).weights, count)
        self.plain = AddStep(plain, self.sums, optimizer)
        self.captures = capture is not None
        if capture is not None:
            self.capture = AddStep(capture, self.sums, optimizer)
            self.enter = CollectStep(self.sums, optimizer)
        self.finish = UpdateStep(self.sums, guard, len(plain.weights))
        self._size = 0

    @staticmethod
    def passes(optimizer: nn.Optimizer) -> list[ParameterTuple]:
        """What the passes over a micro-batch differentiate by."""
        if isinstance(optimizer, SecondOrder):
            return [optimizer.passed, optimizer.parameters]
        return [optimizer.parameters]

    def add(self, inputs: tuple[Tensor, ...], capture: bool) -> Tensor:
        """A micro-batch -> its loss.

        Raises:
            UserError: where its size is not that of the update's other micro-batches.
        """
        size = batch_size(inputs, self.plain.path)
        if self.begun() and self._size not in (0, size):
            raise UserError(
                f"a micro-batch of {size} samples after one of {self._size}: all micro-batches of "
                "an update must have one size (drop_remainder=True)"
            )
        self._size = size
        step = self.capture if capture else self.plain
        return step.compile_and_run(*inputs)

    def begun(self) -> bool:
        """Whether some micro-batches of the current update are done."""
        return int(self.sums.batches.asnumpy()) > 0

    def complete(self) -> bool:
        """Whether all micro-batches of the current update are done."""
        return int(self.sums.batches.asnumpy()) == self.count

    def collect(self) -> bool:
        """Let the statistics enter; returns whether they did."""
        self.enter.compile_and_run()
        return bool(self.sums.good.asnumpy() > 0)

    def update(self) -> None:
        """Update the weights and begin the next accumulation."""
        self.finish.compile_and_run()
