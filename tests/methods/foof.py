"""FOOF: the input factor alone (Benzing, "Gradient Descent on Neurons", 2022, Eq. 4)."""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindspore_thor.capture.input_moments import InputMoments
from mindspore_thor.capture.rule import StatisticsRule
from mindspore_thor.curvature.group import GroupCurvature, where_good
from mindspore_thor.curvature.state import state
from mindspore_thor.graph.shared import Maker
from mindspore_thor.graph.slices import part
from mindspore_thor.layers.coverage import CoveredLayer
from mindspore_thor.linalg.blocks import BlockLayout, block_layout
from mindspore_thor.linalg.inverse import INVERSE
from mindspore_thor.optim.averaged import AveragedStatistics


class InputFactorRule(StatisticsRule):
    """Backward rule: A, then (1, T, N), as one float32 vector."""

    def __init__(self, rows: nn.Cell, homogeneous: bool, layout: BlockLayout) -> None:
        super().__init__(rows, homogeneous)
        self.input_moments = InputMoments(rows, homogeneous, layout)

    def construct(self, x: Tensor, out: Tensor, dout: Tensor, state: Tensor) -> Tensor:
        """A layer's input and the gradient of its output -> statistics."""
        return ops.concat((self.input_moments(x).reshape(-1), self.meta(x, dout)))


class InputFactor(GroupCurvature):
    """V = D (A + lam I)^-1 of the L layers of one geometry."""

    solver = INVERSE

    def __init__(
        self, name: str, layers: int, rows: nn.Cell, homogeneous: bool, decay: float
    ) -> None:
        self.d, self.maps = rows.d_in + int(homogeneous), rows.groups
        super().__init__(name, layers, self.maps * self.d**2, decay)
        self.homogeneous = homogeneous
        eye = np.tile(np.eye(self.d, dtype=np.float32), (layers * self.maps, 1, 1))
        self.inverse = state(eye, f"{name}.inverse")

    def make_rule(self, make: Maker, rows: nn.Cell) -> nn.Cell:
        """A from one backward pass."""
        return make(InputFactorRule, rows, self.homogeneous, block_layout(self.d, None))

    def stacks(self) -> tuple[tuple[int, int], ...]:
        """One matrix for every map."""
        return ((self.maps, self.d),)

    def problems(self, damping: Tensor) -> tuple[Tensor, ...]:
        """A with lam."""
        a = part(self.statistics, 0, self.end, 1).reshape((-1, self.d, self.d))
        return a, damping * ops.ones((self.layers * self.maps,), ms.float32)

    def derived(self) -> tuple[Parameter, ...]:
        """The inverse."""
        return (self.inverse,)

    def install(
        self, good: Tensor, damping: Tensor, solutions: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Take it; where it failed the last good one stays."""
        return where_good(good, solutions, (self.inverse,))

    def precondition(self, matrix: Tensor, damping: Tensor) -> Tensor:
        """[L * maps, d_out, d_in(+1)] -> the same shape."""
        return ops.bmm(matrix, self.inverse)


class FOOF(AveragedStatistics):
    """W <- W - lr D (A + lam I)^-1 with the averaged input factor A, a bias with its weight."""

    label = "foof"

    def build_group(self, name: str, layers: Sequence[CoveredLayer]) -> GroupCurvature:
        """One input factor a layer."""
        rows = layers[0].rows
        assert rows is not None
        return InputFactor(name, len(layers), rows, self.homogeneous(layers[0]), self._decay)
