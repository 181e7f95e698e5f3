"""Curvature that decides a layer's gradient inside the backward pass, not after it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindspore_thor.curvature.base import GroupCurvature

ANY, PLAIN, OWN, FOREIGN = "any", "plain", "own", "foreign"
"""What a graph is compiled for: any step in any training cell; a step of a ``TrainStep`` that does
not collect, or another graph of a ``TrainStep``; or one of a ``TrainStep`` with another optimizer,
whose batches only pass through: layers are plain there.
"""


class GraphKind(nn.Cell):
    """Tells all hooks of a network what the graph that is being compiled is for.

    The compiler folds ``kind`` to a constant, so a plain step's graph holds no trace of what only
    a collecting step does. Every other graph decides by a lazy branch: data sinking and
    ``ms.Model`` compile one that serves all steps.
    """

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.kind = ANY
        _kinds.add(self)


_kinds: weakref.WeakSet[GraphKind] = weakref.WeakSet()
"""Those of all optimizers, and of all hooks that have outlived theirs."""


@contextmanager
def compiling(own: GraphKind | None, kind: str) -> Iterator[None]:
    """While this holds, graphs of one optimizer's ``TrainStep`` are compiled.

    Args:
        own: the optimizer's; None for one without hooks.
        kind: what it is told; all others are told :data:`FOREIGN`.
    """
    before = [(graph, graph.kind) for graph in _kinds]
    for graph, _ in before:
        graph.kind = kind if graph is own else FOREIGN
    try:
        yield
    finally:
        for graph, was in before:
            graph.kind = was


class DirectRule(nn.Cell):
    """What a :class:`~mindspore_thor.nn.direct.DirectCapture` asks of a method.

    Args:
        rows: the layer's geometry, with samples as its first axis.
        has_bias: whether the layer's bias belongs to its block.
        inverse_scale: what undoes the loss scale on ``dout``.
    """

    keeps_apart = False
    """Whether the statistics of a pass are of no use to the gradients of the same pass."""

    def __init__(self, rows: nn.Cell, has_bias: bool, inverse_scale: float) -> None:
        super().__init__()
        self.rows = rows
        self.has_bias = has_bias
        self.inverse_scale = inverse_scale
        self.vjp = ops.GradOperation(get_all=True, sens_param=True)

    def run(self, x: Tensor, weight: Tensor) -> Tensor:
        """The linear map; a method, because GradOperation differentiates those exactly."""
        return self.rows.apply(x, weight)

    def weight_gradient(self, x: Tensor, weight: Tensor, dout: Tensor) -> Tensor:
        """The plain gradient of the weight for an output gradient."""
        return self.vjp(self.run)(x, weight, dout)[1]

    def per_sample_sums(self, dout: Tensor) -> Tensor:
        """[N, C_out]: the output gradient summed over positions, a sample's bias gradient."""
        columns = self.rows.output_positions(dout)
        return columns.sum(3).reshape((columns.shape[0], -1))

    def unscaled(self, dout: Tensor) -> Tensor:
        """The output gradient of the mean loss in float32, without the loss scale."""
        g = ops.cast(dout, ms.float32)
        return g if self.inverse_scale == 1.0 else g * self.inverse_scale


class DirectCurvature(GroupCurvature):
    """A layer whose gradient leaves the backward pass ready for the update: a group of its own.

    Args:
        name: prefix of the parameters' names.
        size: see :class:`~mindspore_thor.curvature.base.GroupCurvature`.
        graph: what the graph being compiled is for.
        decay: see :class:`~mindspore_thor.curvature.base.GroupCurvature`.
    """

    direct = True

    def __init__(self, name: str, size: int, graph: GraphKind, decay: float = 0.0) -> None:
        super().__init__(name, 1, size, decay)
        self.graph = graph
