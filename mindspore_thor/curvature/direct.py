"""A group of one, whose layer's gradient is decided inside the backward pass, not after it."""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
from mindspore import Parameter
from mindspore.common.initializer import initializer

from mindspore_thor.curvature.group import GroupCurvature
from mindspore_thor.graph.kind import GraphKind


class DirectCurvature(GroupCurvature):
    """A layer whose gradient leaves the backward pass ready for the update: a group of its own.

    Args:
        name: prefix of the parameters' names.
        size: see :class:`~mindspore_thor.curvature.group.GroupCurvature`.
        graph: what the graph being compiled is for.
        decay: see :class:`~mindspore_thor.curvature.group.GroupCurvature`.

    Attributes:
        direction_probes: where the plain gradient leaves as well, what the direction is the
            gradient of: one probe for the weight, and one for a bias that belongs to it.
    """

    direct = True

    def __init__(self, name: str, size: int, graph: GraphKind, decay: float = 0.0) -> None:
        super().__init__(name, 1, size, decay)
        self.graph = graph
        self.label = name
        self.direction_probes: tuple[Parameter, ...] = ()

    def add_direction_probes(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Let the direction leave beside the gradient, not in its place.

        Args:
            shapes: of the weight, and of the bias that belongs to it, if one does.
        """
        probes = tuple(
            Parameter(initializer("zeros", shape, ms.float32), name=f"{self.label}.direction{i}")
            for i, shape in enumerate(shapes)
        )
        # Out of the registry: the optimizer holds them, as it holds the weights.
        object.__setattr__(self, "direction_probes", probes)
