"""SOAP: Adam in the eigenbasis of Shampoo's L and R (Vyas et al. 2024; methods section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindspore_thor.curvature.group import GroupCurvature, where_good
from mindspore_thor.curvature.state import state
from mindspore_thor.graph.operators import (
    ABS,
    ADD,
    ASSIGN,
    BMM,
    CAST,
    CONCAT2,
    DIV,
    GREATER,
    MAXIMUM,
    MUL,
    NOT_EQUAL,
    SELECT,
    SQRT,
    SUB,
)
from mindspore_thor.graph.slices import part
from mindspore_thor.layers.coverage import CoveredLayer
from mindspore_thor.layers.rows import Rows
from mindspore_thor.linalg.inverse import BASIS
from mindspore_thor.linalg.sums import MAX
from mindspore_thor.methods.kronecker import repeated, stack
from mindspore_thor.optim.adam import AdamSettings, adam_settings
from mindspore_thor.optim.base import SecondOrder
from mindspore_thor.optim.checks import check_count, check_share_of_old
from mindspore_thor.optim.intervals import IntervalLike

_TRANSPOSED_TIMES = ops.BatchMatMul(transpose_a=True)
_TIMES_TRANSPOSED = ops.BatchMatMul(transpose_b=True)
_SMALLEST = 1e-30


class EigenbasisAdam(GroupCurvature):
    """V = Q_L (M / (sqrt(V) + eps)) Q_R^T sqrt(1 - b2^t) / (1 - b1^t), Adam on P = Q_L^T D Q_R.

    L and R, averages of D D^T and D^T D, take a gradient in after the step that it made, so that
    none is projected on its own basis. The first one only begins them. A refresh turns the bases
    by a power step; M is carried over, back with the old basis and forward with the new one, and
    the entries of V go with the columns that they belong to. A side of more than ``limit`` rows
    keeps Q = I. Groups of a convolution are separate matrices.

    Until its first basis is there a layer stands still. So does one without any gradient yet.

    Args:
        name: prefix of the parameters' names.
        layers: L.
        rows: the layers' geometry.
        settings: of Adam.
        decay: weight of the old L and R in their averages.
        limit: largest side that has a basis.
    """

    def __init__(
        self,
        name: str,
        layers: int,
        rows: Rows,
        settings: AdamSettings,
        decay: float,
        limit: int,
    ) -> None:
        super().__init__(name, layers, 0, decay)
        height, width = rows.matrix
        self.maps = rows.groups
        self.beta1, self.beta2, self.epsilon = settings.beta1, settings.beta2, settings.epsilon
        self.turns_left, self.turns_right = height <= limit, width <= limit
        self.solver = BASIS if self.turns_left or self.turns_right else ""
        self.shape = (layers * self.maps, height, width)
        self.height, self.width = height, width

        self.mean = self.made(f"{name}.mean", height, width)
        self.square = self.made(f"{name}.square", height, width)
        if self.turns_left:
            self.left = self.made(f"{name}.left", height, height)
            self.basis_left = self.made(f"{name}.basis_left", height, height, 1.0)
        if self.turns_right:
            self.right = self.made(f"{name}.right", width, width)
            self.basis_right = self.made(f"{name}.basis_right", width, width, 1.0)
        # Powers by products: the last bit of pow() need not be the same in every run.
        self.powers = state(np.ones((layers, 2), np.float32), f"{name}.powers")
        self.betas = Tensor([[self.beta1, self.beta2]], ms.float32)
        self.begun = state(np.zeros((layers,), np.int32), f"{name}.begun")

    def made(self, name: str, height: int, width: int, diagonal: float = 0.0) -> Parameter:
        """One matrix for every map of every layer, [L, maps, height, width]."""
        matrix = diagonal * np.eye(height, width, dtype=np.float32)
        return state(np.tile(matrix, (self.layers, self.maps, 1, 1)), name)

    def ready(self) -> Tensor:
        """Which layers have a basis, boolean [L]."""
        return super().ready() if self.solver else GREATER(self.begun, 0)

    def ready_layers(self) -> np.ndarray:
        """Which layers have had a gradient, on the host."""
        return self.begun.asnumpy() > 0

    def stacks(self) -> tuple[tuple[int, int], ...]:
        """L, then R."""
        left = ((self.maps, self.height),) if self.turns_left else ()
        return (*left, (self.maps, self.width)) if self.turns_right else left

    def wanted(self) -> Tensor:
        """1 for the layers whose L and R are begun, float32 [L]."""
        return CAST(GREATER(self.begun, 0), ms.float32)

    def problems(self, damping: Tensor) -> tuple[Tensor, ...]:
        """L and R with their bases, and whether these are eigenvectors of anything yet."""
        known = repeated(CAST(self.ready(), ms.float32), self.shape[0])
        found: tuple[Tensor, ...] = ()
        if self.turns_left:
            found += (CONCAT2((stack(self.left), stack(self.basis_left))), known)
        if self.turns_right:
            found += (CONCAT2((stack(self.right), stack(self.basis_right))), known)
        return found

    def derived(self) -> tuple[Parameter, ...]:
        """The bases, and the moments, which lie in them."""
        left = (self.basis_left,) if self.turns_left else ()
        right = (self.basis_right,) if self.turns_right else ()
        return (*left, *right, self.mean, self.square)

    def install(
        self, good: Tensor, damping: Tensor, solutions: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Take the new bases and bring the moments over; what failed stays as it was."""
        first = self.mean.reshape(self.shape)
        second = self.square.reshape(self.shape)
        values: tuple[Tensor, ...] = ()
        if self.turns_left:
            order, basis = _parts(solutions[0])
            first = BMM(_TRANSPOSED_TIMES(basis, stack(self.basis_left)), first)
            places = ops.broadcast_to(order.expand_dims(2), self.shape)
            second = ops.gather_elements(second, 1, places)
            values += (basis,)
        if self.turns_right:
            order, basis = _parts(solutions[len(solutions) - 1])
            first = BMM(first, _TRANSPOSED_TIMES(stack(self.basis_right), basis))
            places = ops.broadcast_to(order.expand_dims(1), self.shape)
            second = ops.gather_elements(second, 2, places)
            values += (basis,)
        return where_good(good, (*values, first, second), self.derived())

    def precondition(self, matrix: Tensor, damping: Tensor) -> Tensor:
        """Adam's step in the bases as they are; then let the gradients enter L and R."""
        moving = self.ready()
        powers = SELECT(moving.reshape((-1, 1)), MUL(self.powers, self.betas), self.powers)
        correction = SUB(1.0, powers)
        rate = DIV(SQRT(part(correction, 1, 1, 1)), MAXIMUM(part(correction, 0, 1, 1), _SMALLEST))
        projected = matrix
        if self.turns_left:
            projected = _TRANSPOSED_TIMES(stack(self.basis_left), projected)
        if self.turns_right:
            projected = BMM(projected, stack(self.basis_right))
        old_first = self.mean.reshape(self.shape)
        old_second = self.square.reshape(self.shape)
        moves = repeated(CAST(moving, ms.float32), self.shape[0])
        which = GREATER(moves.reshape((-1, 1, 1)), 0.0)
        first = ADD(MUL(old_first, self.beta1), MUL(projected, 1.0 - self.beta1))
        square = MUL(MUL(projected, 1.0 - self.beta2), projected)
        second = ADD(MUL(old_second, self.beta2), square)
        first = SELECT(which, first, old_first)
        second = SELECT(which, second, old_second)
        direction = DIV(first, ADD(SQRT(second), self.epsilon))
        direction = MUL(direction, repeated(rate, self.shape[0]).reshape((-1, 1, 1)))
        if self.turns_left:
            direction = BMM(stack(self.basis_left), direction)
        if self.turns_right:
            direction = _TIMES_TRANSPOSED(direction, stack(self.basis_right))
        ASSIGN(self.powers, powers)
        ASSIGN(self.mean, first.reshape(self.mean.shape))
        ASSIGN(self.square, second.reshape(self.square.shape))
        if self.turns_left:
            self.average(self.left, _TIMES_TRANSPOSED(matrix, matrix))
        if self.turns_right:
            self.average(self.right, _TRANSPOSED_TIMES(matrix, matrix))
        # Not "> 0": what is not finite must be seen.
        entered = NOT_EQUAL(MAX(ABS(matrix.reshape((self.layers, -1))), 1), 0.0)
        ASSIGN(self.begun, MAXIMUM(self.begun, CAST(entered, ms.int32)))
        return direction

    def average(self, moment: Parameter, fresh: Tensor) -> bool:
        """Let D D^T or D^T D enter; before the first gradient the average is zero."""
        entering = MUL(fresh.reshape(moment.shape), 1.0 - self.decay)
        ASSIGN(moment, ADD(MUL(moment, self.decay), entering))
        return True  # see GroupCurvature.collect


def _parts(solved: Tensor) -> tuple[Tensor, Tensor]:
    """The order int32 [n, d] and the basis [n, d, d] of solutions."""
    d = solved.shape[1]
    order = CAST(part(solved, 0, 1, 2), ms.int32).reshape((-1, d))
    return order, part(solved, 1, d, 2)


def _one_value(value: Any, flag: bool) -> Any:
    return value


def _decayed(
    begun: Tensor, rate: Any, decay: Any, decays: bool, weight: Parameter, direction: Tensor
) -> Tensor:
    if decays:
        after = SUB(CAST(weight, ms.float32), MUL(rate, direction))
        direction = CAST(ADD(direction, MUL(MUL(begun, decay), after)), direction.dtype)
    return direction


class SOAP(SecondOrder):
    """W <- W - lr V, then W <- W - lr wd W, V Adam's step in Shampoo's slowly turning eigenbasis.

    Weights of linear layers are matrices [d_out, d_in * kh * kw], one per group of a convolution;
    everything else is moved by ``rest``. Nothing is captured in the backward pass. The first step
    begins L and R and moves no covered layer.

    Args:
        net: the network; it stays as it is.
        learning_rate: number, list, or MindSpore schedule; the authors' default is 3e-3.
        betas: weights of the old first and second moment, each in [0, 1).
        shampoo_beta: weight of the old L and R; None for ``betas[1]``.
        epsilon: added to the root of the second moment.
        weight_decay: decoupled decay of parameters with >= 2 dimensions (authors: 0.01).
        inverse_interval: steps between two turns of the bases.
        max_preconditioner_dim: longer sides of a matrix have no basis (Q = I).
        rest: the rule of everything else: "adamw", "nadamw", or None for the plain gradient,
            without momentum.
        rest_betas: the rest's; None for ``betas``.
        **options: see :class:`~mindspore_thor.optim.base.SecondOrder`.

    Raises:
        UserError: for values out of range.
    """

    collects = False
    first_refresh = 1
    own_momentum = True
    without = ("token_mode", "momentum_first")

    def __init__(
        self,
        net: nn.Cell,
        learning_rate: Any,
        betas: tuple[float, float] = (0.95, 0.95),
        shampoo_beta: float | None = None,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        inverse_interval: IntervalLike = 10,
        max_preconditioner_dim: int = 10000,
        rest: str | None = "adamw",
        rest_betas: tuple[float, float] | None = None,
        **options: Any,
    ) -> None:
        self._adam = adam_settings(betas, epsilon)
        self._decay = self._adam.beta2
        if shampoo_beta is not None:
            self._decay = check_share_of_old("shampoo_beta", shampoo_beta)
        self._limit = check_count("max_preconditioner_dim", max_preconditioner_dim)
        super().__init__(
            net,
            learning_rate,
            label="soap",
            damping=1.0,  # there is none
            momentum=0.0,
            weight_decay=weight_decay,
            inverse_interval=inverse_interval,
            rest=rest,
            rest_betas=betas if rest_betas is None else rest_betas,
            **options,
        )

    def decay(self, gradients: tuple[Tensor, ...], lr: Any) -> tuple[Tensor, ...]:
        """Stage: what makes W - lr d into (1 - lr wd) (W - lr d), but for the first step."""
        if not self.exec_weight_decay:
            return gradients
        begun = CAST(GREATER(self.step_number(), 0), ms.float32)
        decay = self.get_weight_decay()
        flags = self.decay_flags
        rates = lr if self.is_group_lr else self.map(ops.partial(_one_value, lr), flags)
        decays = decay if self.is_group else self.map(ops.partial(_one_value, decay), flags)
        decayed = ops.partial(_decayed, begun)
        return self.map(decayed, rates, decays, flags, self.weights, gradients)

    def build_group(self, name: str, layers: Sequence[CoveredLayer]) -> GroupCurvature:
        """L, R, their bases and the moments of the layers' matrices."""
        rows = layers[0].linear
        return EigenbasisAdam(name, len(layers), rows, self._adam, self._decay, self._limit)
