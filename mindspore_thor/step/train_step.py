"""The training step: one network, several compiled graphs, chosen by what the step has to do."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn

from mindspore_thor.cache.compile_cache import Choice, open_cache
from mindspore_thor.errors import UserError, quoted
from mindspore_thor.graph.messages import explained
from mindspore_thor.optim.base import SecondOrder
from mindspore_thor.optim.checks import check_count, rates_given
from mindspore_thor.runtime import prepare_target
from mindspore_thor.step.accumulate import (
    AccumulatedStep,
    AddStep,
    CollectStep,
    UpdateStep,
    refuse_one_graph,
)
from mindspore_thor.step.backward import Backward, StepGraph
from mindspore_thor.step.elsewhere import Elsewhere
from mindspore_thor.step.graphs import (
    ApplyStep,
    CaptureStep,
    PlainStep,
    RefreshStep,
    RetryStep,
    WholeStep,
)
from mindspore_thor.step.guard import Guard, refuse_bad_weights
from mindspore_thor.step.inputs import CaptureInputs, Inputs, Path, batch_size, checked_function
from mindspore_thor.step.loss_scale import DynamicLossScale, LossScale
from mindspore_thor.step.measure import MeasuredStep, MeasureStep
from mindspore_thor.step.model import show_optimizer
from mindspore_thor.step.modes import Modes
from mindspore_thor.step.placement import Placement
from mindspore_thor.step.plan import CAPTURE, MEASURE, NEEDS_GOOD, PLAIN, REFRESH, phases

_GRAPHS = (
    *(WholeStep, PlainStep, RefreshStep, ApplyStep, MeasureStep),
    *(AddStep, CollectStep, UpdateStep),
)
"""What is compiled by itself."""


def _dynamic(choice: Any, optimizer: nn.Optimizer) -> LossScale | None:
    if choice is None:
        return None
    if not isinstance(choice, DynamicLossScale):
        raise UserError(
            f"TrainStep: loss_scale is {quoted(choice)}; give DynamicLossScale(...) or None, a "
            "fixed scale to the optimizer"
        )
    if optimizer.loss_scale != 1.0:
        raise UserError(
            f"the optimizer has loss_scale={optimizer.loss_scale:g} and TrainStep a dynamic one: "
            "leave the optimizer's out"
        )
    return LossScale(choice)


def _refuse_foreign(net: nn.Cell, loss_fn: Any, optimizer: nn.Optimizer) -> None:
    cells = [cell for cell in (net, loss_fn) if isinstance(cell, nn.Cell)]
    own = {id(p) for cell in cells for p in cell.get_parameters()}
    if not any(id(p) in own for p in optimizer.parameters):
        raise UserError(
            f"TrainStep: no parameter of the {type(optimizer).__name__} is in this "
            f"{type(net).__name__}: make the optimizer of the network that it is to train"
        )


class TrainStep(nn.Cell):
    """One training step for any ``nn.Optimizer``; also a training network for ``ms.Model``.

    Called from Python, a step runs the smallest graphs that do its work: the plain or the
    capturing network, then the refresh where inverses are due, then the update (or the capture
    and the refresh before the plain network, where the method says so). The graphs
    are compiled at their first use, in graph mode and in PyNative mode alike. Compiled into
    another graph (data sinking), ``construct`` does the same with lazy branches.

    Whatever is written into a parameter between two calls holds from the next one on, without
    compiling: learning rate, momentum, weights, loaded state. (Within another graph only what is
    written in place does, as by ``ops.assign``.) Cells that were put into evaluation mode by
    ``set_train(False)`` stay in it; a network that was evaluated as a whole trains again. To train
    all of it in evaluation mode call the step's own ``set_train(False)``.

    Args:
        net: the network.
        loss_fn: (output, label) -> the batch's MEAN loss; None where ``net`` returns the loss.
        optimizer: THOR, KFAC, or any ``nn.Optimizer`` over the network's parameters.
        accumulate: micro-batches per update, see
            :class:`~mindspore_thor.step.accumulate.AccumulatedStep`. Every call is one of them;
            the last one updates. Not with data sinking.
        loss_scale: a :class:`~mindspore_thor.step.loss_scale.DynamicLossScale` for nets in float16,
            in place of a fixed ``loss_scale`` of the optimizer's.
        compile_cache: where compiled graphs are kept for the next run: None for nowhere, True for
            a private folder of the user's, or a path; see
            :mod:`mindspore_thor.cache.compile_cache`. Not with data sinking, nor on several ranks.
        capture_inputs: a step's inputs -> what a pass that collects statistics takes in their
            place, with the same batch size and the same mean loss and gradients: sentences padded
            to fewer lengths, say, for every length compiles graphs of its own. None for the same
            inputs. Not with data sinking.

    Inputs:
        The network's inputs, then the label for ``loss_fn``, by position; tuples, lists and dicts
        of tensors too. The first axis of the first tensor that has axes is the batch. Layers look
        at their own first axis: see ``token_mode`` for tokens [S, N, d].

    Outputs:
        The scalar loss (not multiplied by the loss scale).

    Attributes:
        skipped: int32 parameter, updates skipped because loss or gradient was not finite.
        skipped_in_a_row: int32 parameter, those since the last good step.

    Raises:
        TrainingError: when a layer's inversion failed ``max_failures`` times in a row.
        UserError: where the method cannot accumulate gradients, or an argument is something else;
            at a call, for inputs or a loss that cannot train, or weights that are not finite.
    """

    def __init__(
        self,
        net: nn.Cell,
        loss_fn: nn.Cell | None,
        optimizer: nn.Optimizer,
        accumulate: int = 1,
        compile_cache: Choice = None,
        loss_scale: DynamicLossScale | None = None,
        capture_inputs: CaptureInputs | None = None,
    ) -> None:
        super().__init__(auto_prefix=False)
        for name, value, good in (
            ("net", net, isinstance(net, nn.Cell)),
            ("loss_fn", loss_fn, loss_fn is None or callable(loss_fn)),
            ("optimizer", optimizer, isinstance(optimizer, nn.Optimizer)),
        ):
            if not good:
                raise UserError(
                    f"TrainStep: {name} is a {type(value).__name__}; give (network, loss or None, "
                    "optimizer)"
                )
        if isinstance(loss_fn, type):
            name = loss_fn.__name__
            raise UserError(f"TrainStep: loss_fn is the class {name}: give one of it, {name}()")
        _refuse_foreign(net, loss_fn, optimizer)
        prepare_target()
        self._on_cpu = ms.get_context("device_target") == "CPU"
        self.net = net
        self.loss_fn = loss_fn
        self.optimizer = optimizer
        self.second_order = isinstance(optimizer, SecondOrder)
        scale = float(optimizer.loss_scale)
        self.loss_scale = _dynamic(loss_scale, optimizer)
        self.guard = Guard(net, optimizer, self.loss_scale)
        self.skipped = self.guard.skipped
        self.skipped_in_a_row = self.guard.skipped_in_a_row
        samples = optimizer.samples if self.second_order else None
        if self.second_order:
            optimizer.needs_samples = False  # every step writes it
            optimizer.graph.guarded = False  # nobody comes between the passes and the optimizer
        # Where nothing is captured there is nothing to measure either.
        self.measures_first = (
            self.second_order and optimizer.measures_first and optimizer.probe_count > 0
        )
        self._elsewhere = Elsewhere(net, loss_fn, optimizer) if self.second_order else None
        traffic = optimizer.traffic() if self.second_order else ()
        count = optimizer.passed_count if self.second_order else None

        def backward_of(parameters: Any, shared: Any, plain: int | None) -> Backward:
            needs_mean = self.second_order
            return Backward(
                net, loss_fn, parameters, scale, shared, needs_mean, self.loss_scale, plain
            )

        if self.second_order:
            unscale = None if self.loss_scale is None else self.loss_scale.inverse
            optimizer.scale_by(unscale)
            plain = backward_of(optimizer.passed, traffic[:count], count)
            self.plain = PlainStep(plain, optimizer)
        if self.measures_first:
            probes = backward_of(optimizer.probes, traffic[count:], 0)
            self.measure = MeasureStep(probes, self.guard)
            self.whole = MeasuredStep(self.measure, WholeStep(plain, self.guard, samples, True))
        else:
            backward = backward_of(optimizer.parameters, traffic, count)
            self.whole = WholeStep(backward, self.guard, samples, False)
        if self.second_order:
            if not self.measures_first:
                self.capture = CaptureStep(backward, optimizer)
            self.renew = RefreshStep(self.guard)
            self.again = RetryStep(self.guard)
            self.apply_update = ApplyStep(self.guard)
        self.accumulates = check_count("accumulate", accumulate) > 1
        if self.accumulates:
            passes = [
                backward_of(parameters, None, count)
                for parameters in AccumulatedStep.passes(optimizer)
            ]
            self.micro = AccumulatedStep(self.guard, accumulate, *passes)
        self._capture_inputs = checked_function(capture_inputs)
        self._plan: tuple[int, int, int] | None = None
        self._rates = rates_given(optimizer)
        self._started = False
        self._inputs = Inputs(net, loss_fn is not None, self.second_order or self.accumulates)
        self._path: Path = (0,)
        self._graphs = [cell for _, cell in self.cells_and_names() if isinstance(cell, _GRAPHS)]
        self.store = open_cache(compile_cache)
        for graph in self._graphs:
            graph.store = self.store
            if isinstance(graph, StepGraph) and self.loss_scale is not None:
                object.__setattr__(graph, "unscale", self.loss_scale.inverse)
        self._compiled = 0
        self._placed = Placement(self, self.get_parameters())
        self._net_parameters = frozenset(map(id, net.get_parameters()))
        modes = Modes(net, self._graphs)
        self.set_train()
        modes.restore()
        self._modes = modes

    def construct(self, *inputs: Tensor) -> Tensor:
        """A batch -> its loss, all phases in one graph."""
        if self.accumulates:
            refuse_one_graph()
        return self.whole(*inputs)

    def __call__(self, *inputs: Tensor, **keywords: Any) -> Tensor:
        """A batch -> its loss, by the graphs that this step needs."""
        if self.second_order and self.optimizer.superseded:
            raise UserError(self.optimizer.superseded)
        show_optimizer(self.optimizer)
        inputs, path = self._inputs.taken(inputs, keywords)
        if path != self._path:
            self._path = path
            for graph in self._graphs:
                graph.path = path
        self._modes.follow(self.training)
        if self._placed.changed():
            moved = self._placed.bring_home()
            self._plan = None
            self._started = self._started and self._net_parameters.isdisjoint(map(id, moved))
        if not self._started:
            # Parameters may have been loaded since the step was built.
            weights = self.optimizer.weights if self.second_order else self.optimizer.parameters
            refuse_bad_weights(weights)
            if not (self.accumulates and self.micro.begun()):  # a bad micro-batch is undone later
                refuse_bad_weights(self.guard.running)
                self.guard.remember()
            self._started = True
        try:
            if self._elsewhere is not None:
                self._elsewhere.settle(inputs, (self.plain, self.whole))
            loss = self._run(*inputs)
        except RuntimeError as error:
            known = explained(error)
            if known is None:
                raise
            raise known from None
        # On a CPU only a graph's first run moves parameters.
        compiled = sum([len(graph.compile_cache) for graph in self._graphs])
        if compiled != self._compiled or not self._on_cpu:
            self._compiled = compiled
            self._placed.note()
        return loss

    def _run(self, *inputs: Tensor) -> Tensor:
        # compile_and_run, because ms.jit freezes parameters it closes over at their first value.
        if self.accumulates:
            return self._micro_batch(*inputs)
        if not self.second_order:
            return self.whole.compile_and_run(*inputs)
        self.optimizer.expect_batch(batch_size(inputs, self._path))
        step, next_factor, next_inverse = self._read_plan()
        collects, refreshes = step >= next_factor, step >= next_inverse
        collected = self.collected(inputs) if collects or refreshes else inputs
        good = True
        passed: Any = None
        for phase in phases(collects, refreshes, self.measures_first, self.optimizer.remeasures):
            if phase in NEEDS_GOOD and not good:
                continue
            if phase == MEASURE:
                good = bool(self.measure.compile_and_run(*collected).asnumpy())
            elif phase == REFRESH:
                self._refresh()
            else:
                # The same pass twice; what was refreshed tells the second one what to collect.
                if phase == PLAIN:
                    passed = self.plain.compile_and_run(*inputs)
                else:
                    passed = self.capture.compile_and_run(*collected)
                # A bad batch must not be inverted: the refresh waits for the next good capture.
                good = not (phase == CAPTURE and refreshes) or bool(passed[2].asnumpy())
        loss = self._update(*passed)
        changed = collects or refreshes
        self._plan = None if changed else (step + 1, next_factor, next_inverse)
        return loss

    def collected(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """What a pass that collects statistics takes in the place of these."""
        if self._capture_inputs is None:
            return inputs
        return self._inputs.in_place_of(inputs, self._capture_inputs(inputs))

    def plain_step(self, *inputs: Tensor) -> Tensor:
        """A batch -> its loss, after an update with what is stored; of second-order methods."""
        return self._update(*self.plain.compile_and_run(*inputs))

    def _update(self, loss: Tensor, gradients: tuple[Tensor, ...], finite: Tensor) -> Tensor:
        # One graph for all updates: it is as large as the network's, and compiled once.
        self.apply_update.compile_and_run(finite, *gradients)
        return loss

    def _micro_batch(self, *inputs: Tensor) -> Tensor:
        capture = refresh = False
        if self.second_order:
            # Nothing that the plan depends on changes before the update.
            step, next_factor, next_inverse = self._read_plan()
            capture, refresh = step >= next_factor, step >= next_inverse
        loss = self.micro.add(self.collected(inputs) if capture else inputs, capture)
        if self.micro.complete():
            if capture:
                refresh = self.micro.collect() and refresh
            if refresh:
                self._refresh()
            self.micro.update()
            self._plan = None
        return loss

    def _read_plan(self) -> tuple[int, int, int]:
        """(step, next capture, next refresh).

        On a device the numbers are mirrored between captures, because reading them waits for the
        device; on CPU they are read, so that state loaded between two steps is seen at once.
        """
        if self._plan is None or self._on_cpu:
            optimizer = self.optimizer
            step = int(optimizer.global_step.asnumpy()[0])
            self._plan = (
                step,
                int(optimizer.next_factor.asnumpy()),
                int(optimizer.next_inverse.asnumpy()),
            )
        step = self._plan[0]
        if self._rates is not None and step >= self._rates:
            raise UserError(
                f"learning_rate is a list of {self._rates} and this is step {step + 1}: give one "
                "for every step of the training, or a MindSpore schedule"
            )
        return self._plan

    def _refresh(self) -> None:
        self.renew.compile_and_run()
        if not self.optimizer.failures_in_a_row():
            return
        self.again.compile_and_run()
        self.optimizer.check_failures()
