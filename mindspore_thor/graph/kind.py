"""What the graph that is being compiled is for."""

from __future__ import annotations

from mindspore import nn

ANY, PLAIN, OWN = "any", "plain", "own"
"""What a graph is compiled for: any step in any training cell; a step of a ``TrainStep`` that does
not collect, or another graph of a ``TrainStep``.
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
