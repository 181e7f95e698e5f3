"""The backward pass that every kind of step has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindspore_thor.cache.compile_cache import StoredGraph
from mindspore_thor.capture.attach import without_hooks
from mindspore_thor.graph.kind import OWN, PLAIN, compiling
from mindspore_thor.graph.operators import AND, CAST, CHAIN, MUL, SECTION
from mindspore_thor.linalg.device import all_finite, is_finite
from mindspore_thor.optim.base import SecondOrder
from mindspore_thor.parallel.communication import MeanAcrossRanks, Symmetric, world
from mindspore_thor.step.inputs import check_mean, refuse_several_outputs
from mindspore_thor.step.loss_scale import LossScale

_ALL_BUT_LAST = slice(None, -1)


def _unscale(inverse: Tensor, gradient: Tensor) -> Tensor:
    return MUL(gradient, inverse)


@ops.constexpr
def _filled(dtype: Any, shape: tuple[int, ...], value: float, needs_mean: bool) -> Tensor:
    """A constant; made in the graph by ``ops.fill`` it would compile for 50 ms."""
    if needs_mean:
        check_mean(shape)
    return Tensor(np.full(shape, value), dtype)


class StepGraph(StoredGraph):
    """A graph that a ``TrainStep`` compiles for itself.

    Nobody alters the statistics in it, so it need not guard them, as those in other people's
    training cells are guarded.

    Attributes:
        kind: what the graph is for, see :mod:`mindspore_thor.graph.kind`.
        optimizer: any ``nn.Optimizer``.
        unscale: parameter that undoes a dynamic loss scale, or None; of the step that it is of,
            because several steps may share an optimizer.
    """

    kind = OWN
    optimizer: nn.Optimizer
    unscale: Parameter | None = None

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile, and let the hooks of the network know what for."""
        own, hooked = None, list[nn.Cell]()
        if isinstance(self.optimizer, SecondOrder):
            self.optimizer.scale_by(self.unscale)
            own = self.optimizer.graph
            hooked = self.optimizer.hooked if self.kind == PLAIN else []
        with compiling(own, self.kind), without_hooks(hooked):
            super().compile(*args, **kwargs)


class Backward(nn.Cell):
    """Loss and gradients, and whether all of them are finite.

    Args:
        net: the network; its last input is the label of the loss where ``loss_fn`` is given.
        loss_fn: (output, label) -> mean loss, or None where the network returns the loss.
        weights: what to differentiate by: parameters, or parameters and probes.
        loss_scale: factor on the loss during the backward pass.
        traffic: with several ranks, what of ``weights`` is averaged and how; see
            :class:`~mindspore_thor.parallel.communication.MeanAcrossRanks`. Default: all.
        needs_mean: refuse a loss that is no single number.
        dynamic: a loss scale that changes, in place of ``loss_scale``.
        plain_count: the first so many of ``weights`` have gradients, the others statistics, which
            are unscaled where they are captured. Default: all.
    """

    def __init__(
        self,
        net: nn.Cell,
        loss_fn: nn.Cell | None,
        weights: ParameterTuple,
        loss_scale: float,
        traffic: Sequence[Symmetric | None] | None = None,
        needs_mean: bool = False,
        dynamic: LossScale | None = None,
        plain_count: int | None = None,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.needs_mean = needs_mean
        self.net = net
        self.loss_fn: Any = loss_fn
        self.weights = weights
        self.sens = float(loss_scale)
        self.dynamic: Any = dynamic
        self.scaled_count = len(weights) if plain_count is None else plain_count
        self.scaled = slice(None, self.scaled_count)
        self.statistics = slice(self.scaled_count, None)
        self.map = ops.Map()
        self.gradient = ops.GradOperation(get_by_list=True, sens_param=True)
        self.distributed = world()[1] > 1
        # Chosen here: a question in the graph is two functions to the compiler, even one that it
        # can answer, and every graph of every step has them.
        self.forward = self.net_alone if loss_fn is None else self.with_loss
        self.sens_of = self.fixed_sens if dynamic is None else self.dynamic_sens
        short = dynamic is None and not self.distributed
        self.finish = self.checked if short else self.exchanged
        self.exchange(traffic)

    def exchange(self, traffic: Sequence[Symmetric | None] | None) -> None:
        """Say what travels between the ranks, before anything is compiled."""
        if self.distributed:
            self.mean = MeanAcrossRanks(self.weights, traffic or [()] * len(self.weights))

    def net_alone(self, *inputs: Tensor) -> Tensor:
        """The mean loss of a batch, which the net returns."""
        return self.net(*inputs)

    def with_loss(self, *inputs: Tensor) -> Tensor:
        """The mean loss of a batch."""
        return self.loss_fn(self.net(*SECTION(inputs, _ALL_BUT_LAST)), inputs[-1])

    def fixed_sens(self, loss: Tensor) -> Tensor:
        """What the backward pass begins with."""
        return _filled(loss.dtype, loss.shape, self.sens, self.needs_mean)

    def dynamic_sens(self, loss: Tensor) -> Tensor:
        """The same with a loss scale that changes."""
        return MUL(self.fixed_sens(loss), CAST(self.dynamic.scale, loss.dtype))

    def construct(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """A batch -> loss, gradients (times the optimizer's loss scale), whether all are finite."""
        # Not in a method of its own: the pass, and what it leaves behind, would come twice.
        loss = self.forward(*inputs)
        if isinstance(loss, (tuple, list, dict)):
            refuse_several_outputs()
        sens = self.sens_of(loss)
        return self.finish(loss, self.gradient(self.forward, self.weights)(*inputs, sens))

    def checked(
        self, loss: Tensor, gradients: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """With them, whether all are finite."""
        return loss, gradients, AND(is_finite(loss), all_finite(gradients))

    def exchanged(
        self, loss: Tensor, gradients: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """The same of all ranks, and without a loss scale that changes."""
        if self.distributed:
            # Before the check, so that all ranks come to the same result.
            loss, gradients = self.mean(loss, gradients)
        finite = AND(is_finite(loss), all_finite(gradients))
        if self.dynamic is not None and self.scaled_count > 0:
            scaled = self.map(
                ops.partial(_unscale, self.dynamic.inverse), SECTION(gradients, self.scaled)
            )
            gradients = CHAIN(scaled, SECTION(gradients, self.statistics))
        return loss, gradients, finite
