"""mindcv's arguments of ``create_trainer`` -> a ``ms.Model`` around a ``TrainStep``."""

from __future__ import annotations

import importlib
from typing import Any

import mindspore as ms
from mindspore import nn, ops

from mindspore_thor.cache.compile_cache import Choice
from mindspore_thor.errors import UserError, quoted
from mindspore_thor.step.callbacks import StopOnFailure
from mindspore_thor.step.loss_scale import DynamicLossScale
from mindspore_thor.step.train_step import TrainStep

_HALF = ("O2", "O3")
"""Levels whose nets return float16."""


class LossInFloat32(nn.Cell):
    """A loss of outputs that may be float16.

    Args:
        loss: (outputs, labels) -> scalar.

    Inputs:
        Outputs [N, classes], or a tuple of them, and labels.

    Outputs:
        float32 scalar.
    """

    def __init__(self, loss: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.loss = loss

    def construct(self, outputs: Any, labels: ms.Tensor) -> ms.Tensor:
        """The loss of outputs cast to float32."""
        cast = ops.functional.mixed_precision_cast
        return self.loss(cast(ms.float32, outputs), cast(ms.float32, labels))


class Trainer(ms.Model):
    """A Model whose training also says what is covered, and ends when it has become pointless.

    Args:
        step: The training network.
        **options: ``ms.Model``'s.
    """

    def __init__(self, step: TrainStep, **options: Any) -> None:
        super().__init__(step, **options)
        self._watch = StopOnFailure(step)

    def train(
        self, epoch: int, train_dataset: Any, callbacks: Any = None, *rest: Any, **options: Any
    ) -> None:
        """Train, see ``ms.Model.train``; the first callback is ``StopOnFailure``."""
        given = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
        watched = [self._watch, *(one for one in given if one is not None)]
        super().train(epoch, train_dataset, watched, *rest, **options)


def _dynamic(kind: str, level: str, initial: float) -> DynamicLossScale | None:
    """The loss scale that finds its own size, where mindcv or MindSpore would have one."""
    if kind == "dynamic":
        return DynamicLossScale(initial, 2.0, 2000)
    return DynamicLossScale() if kind == "auto" and level == "O2" else None


def build(
    network: nn.Cell,
    loss: nn.Cell,
    optimizer: nn.Optimizer,
    metrics: Any,
    *,
    amp_level: str,
    amp_cast_list: str | None,
    loss_scale_type: str,
    loss_scale: float,
    accumulate: int,
    compile_cache: Choice,
) -> Trainer:
    """Build the trainer. Updates that are not finite are always left out.

    Args:
        network: The network.
        loss: Its loss.
        optimizer: A method of this package.
        metrics: For the evaluation.
        amp_level: O0 to O3, which mindcv's ``auto_mixed_precision`` applies.
        amp_cast_list: mindcv's, likewise.
        loss_scale_type: ``fixed``, ``dynamic`` or ``auto``.
        loss_scale: The fixed one, or the first.
        accumulate: Batches per update.
        compile_cache: See :class:`~mindspore_thor.TrainStep`.

    Raises:
        UserError: If the loss scale is not the one that the optimizer was built with.
    """
    kind = str(loss_scale_type).lower()
    if kind not in ("fixed", "dynamic", "auto"):
        raise UserError(f"loss_scale_type is {quoted(kind)}; give fixed, dynamic or auto")
    if kind == "fixed" and float(optimizer.loss_scale) != float(loss_scale):
        raise UserError(
            f"create_trainer has loss_scale={loss_scale:g} and the optimizer "
            f"{optimizer.loss_scale:g}: give both the same"
        )
    evaluation = nn.WithEvalCell(network, loss, amp_level in _HALF)
    if amp_level != "O0":
        importlib.import_module("mindcv.utils.amp").auto_mixed_precision(
            network, amp_level, amp_cast_list
        )
    step = TrainStep(
        network,
        LossInFloat32(loss) if amp_level in _HALF else loss,
        optimizer,
        accumulate=accumulate,
        compile_cache=compile_cache,
        loss_scale=_dynamic(kind, amp_level, loss_scale),
    )
    return Trainer(step, eval_network=evaluation, metrics=metrics, eval_indexes=[0, 1, 2])
