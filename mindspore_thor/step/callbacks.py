"""What ``ms.Model.train`` is missing: a look at what the compiled steps only count."""

from __future__ import annotations

import sys
from typing import Any

import mindspore as ms
from mindspore import nn

from mindspore_thor.errors import TrainingError, UserError
from mindspore_thor.optim.base import SecondOrder
from mindspore_thor.optim.checks import check_count
from mindspore_thor.step.train_step import TrainStep


class StopOnFailure(ms.Callback):
    """Shows which layers take part, and ends a training that has become pointless.

    A compiled graph cannot raise an error: it counts the updates that it skips because loss or
    gradient is not finite, and the factors that it cannot invert. ``train.py`` looks at these
    counts by itself; give this callback to ``Model.train``. It looks after every ``every``-th step
    (reading waits for the device), with data sinking wherever MindSpore calls it.

    Args:
        step: the ``TrainStep``, or the second-order optimizer of a plain ``Model``, which counts
            failed inversions only.
        max_skipped: skipped updates in a row that are too many, >= 1.
        every: steps between two looks, >= 1.

    Raises:
        UserError: for values out of range, or a ``step`` that counts nothing.
        TrainingError: from ``Model.train``, with the cause and the remedy.
    """

    def __init__(self, step: nn.Cell, max_skipped: int = 10, every: int = 10) -> None:
        super().__init__()
        self._step = step if isinstance(step, TrainStep) else None
        optimizer = step.optimizer if isinstance(step, TrainStep) else step
        self._optimizer = optimizer if isinstance(optimizer, SecondOrder) else None
        if self._step is None and self._optimizer is None:
            raise UserError(
                f"StopOnFailure watches a TrainStep or a second-order optimizer, not a "
                f"{type(step).__name__}: give one of them"
            )
        self._max_skipped = check_count("max_skipped", max_skipped)
        self._every = check_count("every", every)

    def on_train_begin(self, run_context: Any) -> None:
        """Print the table of the layers, and show other callbacks the optimizer."""
        now = run_context.original_args()
        if self._step is not None and now.get("optimizer") is None:
            now.optimizer = self._step.optimizer
        if self._optimizer is not None:
            print(self._optimizer.layer_report(), file=sys.stderr, flush=True)

    def on_train_step_end(self, run_context: Any) -> None:
        """Look where it is time to."""
        now = run_context.original_args()
        if now.cur_step_num % self._every == 0 or now.get("dataset_sink_mode"):
            self.look()

    def on_train_epoch_end(self, run_context: Any) -> None:
        """Look."""
        self.look()

    def look(self) -> None:
        """Raise the error that the counts call for, if any."""
        if self._step is not None:
            skipped = int(self._step.skipped_in_a_row.asnumpy())
            if skipped >= self._max_skipped:
                raise TrainingError(
                    f"{skipped} updates in a row were skipped because the loss or a gradient was "
                    "not finite; lower the learning rate or raise the damping"
                )
        if self._optimizer is not None:
            self._optimizer.check_failures()
