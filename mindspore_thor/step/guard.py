"""What becomes of a step whose loss or gradients are not finite."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from mindspore import Parameter, ParameterTuple, nn, ops

from mindspore_thor.curvature.state import state
from mindspore_thor.errors import UserError
from mindspore_thor.graph.operators import ASSIGN, ASSIGN_ADD, ONES_LIKE, ZEROS_LIKE
from mindspore_thor.optim.base import SecondOrder
from mindspore_thor.parallel.communication import FusedSum, world
from mindspore_thor.step.loss_scale import LossScale

_RUNNING = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def refuse_bad_weights(*groups: Iterable[Parameter]) -> None:
    """Look before training whether weights and running statistics are finite.

    Behind a ReLU, or a normalisation, they may never show in the loss.

    Raises:
        UserError: where one is not.
    """
    for parameter in (p for group in groups for p in group):
        value = parameter.asnumpy()
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            count = value.size - int(np.isfinite(value).sum())
            raise UserError(
                f"{parameter.name[:80]} has {count} NaN or infinite of {value.size} values before "
                "the step: start from other weights, or load another checkpoint"
            )


def _nothing() -> bool:
    return True  # see GroupCurvature.collect


class Guard(nn.Cell):
    """Applies an update only where the step was finite; otherwise counts it and undoes its trace.

    A bad batch also poisons BatchNorm's running statistics during the forward pass, so their last
    good values are kept beside them.

    Args:
        net: the network.
        optimizer: any ``nn.Optimizer``.
        loss_scale: one that changes, or None.
    """

    def __init__(
        self, net: nn.Cell, optimizer: nn.Optimizer, loss_scale: LossScale | None = None
    ) -> None:
        super().__init__(auto_prefix=False)
        self.loss_scale = loss_scale
        self.optimizer = optimizer
        self.second_order = isinstance(optimizer, SecondOrder)
        running = [
            p
            for _, cell in net.cells_and_names()
            if isinstance(cell, _RUNNING)
            for p in (cell.moving_mean, cell.moving_variance)
        ]
        self.map = ops.Map()
        self.running = ParameterTuple(running)
        self.good = ParameterTuple([state(p.asnumpy(), f"last_good.{p.name}") for p in running])
        _, ranks = world()
        self.averages = ranks > 1 and len(running) > 0
        if self.averages:
            # Each rank normalises by its own shard. Running statistics are linear in the batches'
            # own, so their mean over ranks, taken in every step, is what averaging those would
            # give, and every rank holds the same ones.
            self.mean = FusedSum([int(np.prod(p.shape)) for p in running], 1.0 / ranks)
        # Chosen here rather than asked in every graph, see Backward.
        keeps = self.average if self.averages else self.copy_good
        self.keep_good = keeps if running else _nothing
        self.rewind = self.put_back if running else _nothing
        self.advance = optimizer.advance if isinstance(optimizer, SecondOrder) else self.count_step
        self.grow = _nothing if loss_scale is None else loss_scale.grow
        self.shrink = _nothing if loss_scale is None else loss_scale.shrink
        self.skipped = state(np.zeros((), np.int32), "skipped")
        self.skipped_in_a_row = state(np.zeros((), np.int32), "skipped_in_a_row")

    def remember(self) -> None:
        """Copy the running statistics outside of any graph."""
        for good, running in zip(self.good, self.running):
            ops.assign(good, running)

    def put_back(self) -> bool:
        """Put the running statistics back to where they were before this step's forward pass."""
        self.map(ASSIGN, self.running, self.good)
        return True  # see GroupCurvature.collect

    def copy_good(self) -> bool:
        """Keep the running statistics of a good step."""
        self.map(ASSIGN, self.good, self.running)
        return True

    def average(self) -> bool:
        """Average the running statistics of a good step over the ranks and keep them."""
        self.map(ASSIGN, self.running, self.mean(self.running))
        return self.copy_good()

    def count_step(self) -> bool:
        """Count a step of MindSpore's own optimizers."""
        step = self.optimizer.global_step
        ASSIGN_ADD(step, ONES_LIKE(step))
        return True

    def accept(self) -> bool:
        """Remember the running statistics of a good step, averaged over ranks."""
        self.keep_good()
        ASSIGN(self.skipped_in_a_row, ZEROS_LIKE(self.skipped_in_a_row))
        self.grow()
        return True

    def reject(self) -> bool:
        """Count a bad step and put the running statistics back."""
        self.rewind()
        # The step counts for every schedule all the same, so that epochs stay aligned.
        self.advance()
        ASSIGN_ADD(self.skipped, ONES_LIKE(self.skipped))
        ASSIGN_ADD(self.skipped_in_a_row, ONES_LIKE(self.skipped_in_a_row))
        self.shrink()
        return True
