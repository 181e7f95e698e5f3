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
        self.running_count = len(running)
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
        self.skipped = state(np.zeros((), np.int32), "skipped")
        self.skipped_in_a_row = state(np.zeros((), np.int32), "skipped_in_a_row")

    def remember(self) -> None:
        """Copy the running statistics outside of any graph."""
        for good, running in zip(self.good, self.running):
            ops.assign(good, running)

    def rewind(self) -> None:
        """Put the running statistics back to where they were before this step's forward pass."""
        if self.running_count > 0:
            self.map(ASSIGN, self.running, self.good)

    def accept(self) -> None:
        """Remember the running statistics of a good step, averaged over ranks."""
        if self.averages:
            self.map(ASSIGN, self.running, self.mean(self.running))
        if self.running_count > 0:
            self.map(ASSIGN, self.good, self.running)
        ASSIGN(self.skipped_in_a_row, ZEROS_LIKE(self.skipped_in_a_row))
        if self.loss_scale is not None:
            self.loss_scale.grow()

    def reject(self) -> None:
        """Count a bad step and put the running statistics back."""
        self.rewind()
        # The step counts for every schedule all the same, so that epochs stay aligned.
        if self.second_order:
            self.optimizer.advance()
        else:
            step = self.optimizer.global_step
            ASSIGN_ADD(step, ONES_LIKE(step))
        ASSIGN_ADD(self.skipped, ONES_LIKE(self.skipped))
        ASSIGN_ADD(self.skipped_in_a_row, ONES_LIKE(self.skipped_in_a_row))
        if self.loss_scale is not None:
            self.loss_scale.shrink()
