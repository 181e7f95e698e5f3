"""Shampoo: preconditioners made of the gradients themselves (Gupta et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindspore_thor.curvature.group import GroupCurvature
from mindspore_thor.curvature.state import state
from mindspore_thor.graph.operators import (
    AND,
    ASSIGN_ADD,
    BMM,
    CAST,
    ITEM,
    MUL,
    NOT_EQUAL,
    SELECT,
    TRANSPOSE,
)
from mindspore_thor.layers.coverage import CoveredLayer
from mindspore_thor.layers.rows import Rows
from mindspore_thor.linalg.blocks import block_layout, merge_matrix, split_matrix
from mindspore_thor.linalg.inverse import FOURTH_ROOT
from mindspore_thor.linalg.sums import MAX
from mindspore_thor.methods.kronecker import stack
from mindspore_thor.optim.base import SecondOrder
from mindspore_thor.optim.checks import check_count, check_number
from mindspore_thor.optim.intervals import IntervalLike


class GradientRoots(GroupCurvature):
    """V = L^-1/4 D R^-1/4 on every block of the gradient matrix.

    L = epsilon I + sum D D^T and R = epsilon I + sum D^T D over the observed gradients. Each block
    of at most ``max_dim`` rows and columns has an L and an R of its own. Groups of a convolution
    are separate matrices. epsilon reaches :meth:`problems` as its damping and is added to the
    eigenvalues; the stored sums start from zero. While they are zero, the block has no statistics:
    epsilon alone would make a step of 1 / sqrt(epsilon) times the gradient, so it stays plain.

    Args:
        name: prefix of the parameters' names.
        layers: L.
        rows: the layers' geometry.
        max_dim: largest side of a block.
    """

    solver = FOURTH_ROOT  # two sides, each to the power -1/4

    def __init__(self, name: str, layers: int, rows: Rows, max_dim: int) -> None:
        super().__init__(name, layers, 0)
        self.rows = rows
        self.left = block_layout(rows.d_out, max_dim)
        self.right = block_layout(rows.d_in, max_dim)
        blocks = rows.groups * self.left.blocks * self.right.blocks
        self.sums_shape = (layers, blocks, self.left.size**2)

        def filled(size: int, diagonal: float) -> np.ndarray:
            return np.tile(diagonal * np.eye(size, dtype=np.float32), (layers, blocks, 1, 1))

        self.sum_left = state(filled(self.left.size, 0.0), f"{name}.sum_left")
        self.sum_right = state(filled(self.right.size, 0.0), f"{name}.sum_right")
        self.root_left = state(filled(self.left.size, 1.0), f"{name}.root_left")
        self.root_right = state(filled(self.right.size, 1.0), f"{name}.root_right")

    def observe(self, matrix: Tensor) -> None:
        """Add D D^T and D^T D of every block."""
        blocks = split_matrix(matrix, self.left, self.right)
        transposed = TRANSPOSE(blocks, (0, 2, 1))
        left = BMM(blocks, transposed)
        right = BMM(transposed, blocks)
        ASSIGN_ADD(self.sum_left, left.reshape(self.sum_left.shape))
        ASSIGN_ADD(self.sum_right, right.reshape(self.sum_right.shape))

    def stacks(self) -> tuple[tuple[int, int], ...]:
        """All blocks of L, then of R."""
        count = self.sum_left.shape[1]
        return (count, self.left.size), (count, self.right.size)

    def seen(self) -> Tensor:
        """Which blocks had a gradient that was not zero, boolean [L, blocks]."""
        # The largest entry of D D^T is on its diagonal. Not "> 0": a sum of NaN must be seen.
        return NOT_EQUAL(MAX(self.sum_left.reshape(self.sums_shape), 2), 0.0)

    def wanted(self) -> Tensor:
        """1 for the layers of which any block had a gradient, float32 [L]."""
        return MAX(CAST(self.seen(), ms.float32), 1)

    def problems(self, damping: Tensor) -> tuple[Tensor, ...]:
        """L and R without epsilon, and epsilon."""
        shifts = MUL(ops.ones((self.layers * self.sum_left.shape[1],), ms.float32), damping)
        return stack(self.sum_left), shifts, stack(self.sum_right), shifts

    def derived(self) -> tuple[Parameter, ...]:
        """Both roots."""
        return self.root_left, self.root_right

    def install(
        self, good: Tensor, damping: Tensor, solutions: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Take the inverse fourth roots; where one failed the last good ones of both stay.

        Those of blocks without statistics stay the identity.
        """
        which = AND(good.reshape((-1, 1)), self.seen()).expand_dims(2).expand_dims(3)
        left = self.root_left
        right = self.root_right
        return (
            SELECT(which, ITEM(solutions, 0).reshape(left.shape), left),
            SELECT(which, ITEM(solutions, 1).reshape(right.shape), right),
        )

    def precondition(self, matrix: Tensor, damping: Tensor) -> Tensor:
        """The product with both stored roots, block by block."""
        blocks = split_matrix(matrix, self.left, self.right)
        blocks = BMM(BMM(stack(self.root_left), blocks), stack(self.root_right))
        return merge_matrix(blocks, self.left, self.right)


class Shampoo(SecondOrder):
    """L^-1/4 D R^-1/4 with L and R summed up from the gradients, in blocks.

    Weights of linear layers are matrices [d_out, d_in * kh * kw], one per group of a convolution;
    biases, embeddings and everything else have the plain gradient. Nothing is captured in the
    backward pass: all statistics come from the gradient.

    Args:
        net: the network; it stays as it is.
        learning_rate: number, list, or MindSpore schedule.
        epsilon: > 0, the multiple of the identity from which L and R start.
        momentum: heavy-ball coefficient in [0, 1).
        weight_decay: added to the preconditioned gradient of parameters with >= 2 dimensions.
        factor_interval: steps between two gradients that enter L and R.
        inverse_interval: steps between two computations of the roots.
        max_preconditioner_dim: larger dimensions are split into blocks of this size, the last one
            ragged; every block of the matrix has its own L and R.
        grafting: None, "sgd", "adamw" or "nadamw": the rule whose step's norm each layer's V gets.
        kl_clip: V is scaled by min(1, sqrt(kl_clip / (lr^2 sum <V, D>))); None (default) for no
            clipping.
        **options: see :class:`~mindspore_thor.optim.base.SecondOrder`.

    Raises:
        UserError: for values out of range.
    """

    observes = True

    def __init__(
        self,
        net: nn.Cell,
        learning_rate: Any,
        epsilon: float = 1e-4,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        factor_interval: IntervalLike = 1,
        inverse_interval: IntervalLike = 1,
        max_preconditioner_dim: int = 128,
        grafting: str | None = None,
        kl_clip: float | None = None,
        **options: Any,
    ) -> None:
        self._max_dim = check_count("max_preconditioner_dim", max_preconditioner_dim)
        super().__init__(
            net,
            learning_rate,
            label="shampoo",
            damping=check_number("epsilon", epsilon, 0.0, open_low=True),
            momentum=momentum,
            weight_decay=weight_decay,
            factor_interval=factor_interval,
            inverse_interval=inverse_interval,
            kl_clip=kl_clip,
            grafting=grafting,
            **options,
        )

    def build_group(self, name: str, layers: Sequence[CoveredLayer]) -> GroupCurvature:
        """Sums and roots for every block of the layer's matrix."""
        rows = layers[0].linear
        return GradientRoots(name, len(layers), rows, self._max_dim)
