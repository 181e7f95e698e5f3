"""Which layers' weights a loss also uses outside of the layers, found by differentiating it once.

The layers' own operators pass no gradient to their weights, and the derivative by the loss is NaN:
where a weight has another use its gradient is NaN too, where it has none the compiler's zeros. So
the answer hangs on the network and the loss alone, not on the values of weights or batch, and is
the same in a resumed run and on all ranks. A use in a branch that a tensor switches off at the
first batch has no gradient there, and is not found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindspore_thor.capture.stopped import stopped
from mindspore_thor.graph.kind import FOREIGN, compiling
from mindspore_thor.graph.operators import CAST, MUL
from mindspore_thor.layers.suspicion import suspicious
from mindspore_thor.layers.uses import used_outside
from mindspore_thor.optim.base import SecondOrder
from mindspore_thor.step.backward import Backward
from mindspore_thor.step.inputs import refuse_several_outputs

_MAP = ops.Map()


def _has_nan(gradient: Tensor) -> Tensor:
    return ops.cast(ops.isnan(ops.cast(gradient, ms.float32)).any(), ms.float32)


class _Check(nn.Cell):
    """A batch and a NaN -> for every parameter whether its gradient has a NaN, float32 [P]."""

    def __init__(self, net: nn.Cell, loss_fn: Any, parameters: Sequence[Parameter]) -> None:
        super().__init__(auto_prefix=False)
        self.backward = Backward(net, loss_fn, ParameterTuple(parameters), 1.0, None, True)
        self.distributed = self.backward.distributed
        if self.distributed:
            self.all_reduce = ops.AllReduce()

    def construct(self, nan: Tensor, *inputs: Any) -> Tensor:
        """See the class."""
        loss = self.backward.forward(*inputs)
        if isinstance(loss, (tuple, list, dict)):
            refuse_several_outputs()
        sens = MUL(self.backward.sens_of(loss), CAST(nan, loss.dtype))
        gradients = self.backward.gradient(self.backward.forward, self.backward.weights)(
            *inputs, sens
        )
        found = ops.stack(_MAP(_has_nan, gradients))
        if self.distributed:
            found = self.all_reduce(found)
        return found


@contextmanager
def _without_a_trace(*cells: Any) -> Iterator[None]:
    """Put back what a forward pass leaves behind: running statistics, counters, random numbers."""
    kept = {
        id(p): (p, p.asnumpy().copy())
        for cell in cells
        if isinstance(cell, nn.Cell)
        for p in cell.get_parameters()
        if not p.requires_grad
    }
    random = ms.get_rng_state()
    try:
        yield
    finally:
        ms.set_rng_state(random)
        for parameter, value in kept.values():
            if not np.array_equal(parameter.asnumpy(), value, equal_nan=True):
                ops.assign(parameter, Tensor(value, parameter.dtype))


class Elsewhere:
    """Decides for one training step which layers' weights have uses outside of them.

    Nothing is compiled for a network and a loss that raise no suspicion.

    Args:
        net: the network, with or without capture.
        loss_fn: (output, label) -> mean loss, or None where the network returns the loss.
        optimizer: its layers are asked about.
    """

    def __init__(self, net: nn.Cell, loss_fn: Any, optimizer: SecondOrder) -> None:
        self._net, self._loss_fn, self._optimizer = net, loss_fn, optimizer
        self._found: dict[str, str] | None = {}
        layers, weights = optimizer.layers, optimizer.weights
        held = [weights[i] for layer in layers for i in (layer.weight, layer.bias) if i >= 0]
        by_loss = used_outside(net, loss_fn)
        of_net = {id(cell) for _, cell in net.cells_and_names()}
        of_loss = loss_fn.cells_and_names() if isinstance(loss_fn, nn.Cell) else ()
        held_there = {
            id(p)
            for _, cell in of_loss
            if id(cell) not in of_net
            for p in cell.get_parameters(expand=False)
        }
        seems = {layer.name: layer.elsewhere for layer in layers if layer.elsewhere}
        for layer in layers:
            if id(layer.cell) in by_loss or id(weights[layer.weight]) in held_there:
                seems.setdefault(layer.name, "weight also used by the loss: plain gradient")
        # This holds in a graph that is compiled around the step.
        optimizer.keep_plain(seems)
        if seems or (layers and suspicious(net, loss_fn, held, [layer.cell for layer in layers])):
            self._found = None  # the first batch will tell
            if optimizer.rest is not None:
                optimizer.rest.make_room(optimizer.coverable)

    def settle(self, inputs: tuple[Any, ...], steps: Sequence[nn.Cell]) -> None:
        """Let the optimizer know, before a step is compiled.

        Args:
            inputs: the step's.
            steps: the cells whose gradients the ranks exchange.
        """
        if self._found is None:
            self._found = self._ask(inputs)
        optimizer = self._optimizer
        if optimizer.elsewhere is self._found or optimizer.elsewhere == self._found == {}:
            return
        optimizer.keep_plain(self._found)
        traffic = dict(zip(map(id, optimizer.parameters), optimizer.traffic()))
        for cell in [cell for step in steps for _, cell in step.cells_and_names()]:
            if isinstance(cell, Backward):
                cell.exchange([traffic[id(p)] for p in cell.weights])

    def _ask(self, inputs: tuple[Any, ...]) -> dict[str, str]:
        """Name of the layer -> why it has the plain gradient."""
        optimizer = self._optimizer
        # Nothing is captured of a LayerNorm: what counts is its gradient, whatever made it.
        kept = [x for x in optimizer.layers if not x.type.hooked and x.own_construct]
        layers = [layer for layer in optimizer.layers if layer not in kept]
        found_elsewhere = {layer.name: layer.elsewhere for layer in kept if layer.elsewhere}
        if not layers:
            return found_elsewhere
        asked: list[tuple[str, str, Parameter]] = []
        with stopped(layers) as marks:
            for layer, mark in zip(layers, marks):
                asked.append((layer.name, "weight", optimizer.weights[layer.weight]))
                if optimizer.directs_bias(layer):
                    asked.append((layer.name, "bias", optimizer.weights[layer.bias]))
                if mark is not None:
                    asked.append((layer.name, "layer", mark))
            check = _Check(self._net, self._loss_fn, [parameter for *_, parameter in asked])
            check.set_grad()
            with _without_a_trace(self._net, self._loss_fn), compiling(None, FOREIGN):
                found = check.compile_and_run(Tensor(float("nan"), ms.float32), *inputs).asnumpy()
        seen: dict[str, dict[str, bool]] = {}
        for (name, kind, _), value in zip(asked, found):
            seen.setdefault(name, {})[kind] = value > 0
        for name, uses in seen.items():
            if uses["weight"] or uses.get("bias", False):
                found_elsewhere[name] = _reason(uses)
        return found_elsewhere


def _reason(uses: dict[str, bool]) -> str:
    if not uses.get("layer", True):
        return "layer itself not used, its weight is elsewhere: plain gradient"
    what = "weight" if uses["weight"] else "bias"
    return f"{what} also used outside of the layer: plain gradient"
