"""What the graph that is being compiled is for."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from mindspore import nn

ANY, PLAIN, MEASURE, OWN, FOREIGN = "any", "plain", "measure", "own", "foreign"
"""What a graph is compiled for: any step in any training cell; a step of a ``TrainStep`` that does
not collect; a pass that does nothing else; another graph of a ``TrainStep``; or one of a
``TrainStep`` with another optimizer, whose batches only pass through: layers are plain there.
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
        # Whether somebody else may alter the statistics between the backward pass and the
        # optimizer; not where a TrainStep hands them over.
        self.guarded = True
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
