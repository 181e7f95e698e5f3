"""A group of one, whose layer's gradient is decided inside the backward pass, not after it."""

from __future__ import annotations

from mindspore_thor.curvature.group import GroupCurvature
from mindspore_thor.graph.kind import GraphKind


class DirectCurvature(GroupCurvature):
    """A layer whose gradient leaves the backward pass ready for the update: a group of its own.

    Args:
        name: prefix of the parameters' names.
        size: see :class:`~mindspore_thor.curvature.group.GroupCurvature`.
        graph: what the graph being compiled is for.
        decay: see :class:`~mindspore_thor.curvature.group.GroupCurvature`.
    """

    direct = True

    def __init__(self, name: str, size: int, graph: GraphKind, decay: float = 0.0) -> None:
        super().__init__(name, 1, size, decay)
        self.graph = graph
