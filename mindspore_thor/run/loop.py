"""The training loop: epochs, evaluation, checkpoints and an orderly stop."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindspore_thor.errors import TrainingError, UserError
from mindspore_thor.files import shown
from mindspore_thor.parallel.agreement import any_rank
from mindspore_thor.parallel.communication import world
from mindspore_thor.parallel.rank_state import gather_state
from mindspore_thor.run.build import Session
from mindspore_thor.run.checkpoint import (
    Position,
    list_checkpoints,
    prune_checkpoints,
    save_checkpoint,
    save_weights,
)
from mindspore_thor.run.curves import draw_curves, is_own_picture
from mindspore_thor.run.evaluate import keep_graphs
from mindspore_thor.run.progress import Progress
from mindspore_thor.run.run_folder import RunFolder
from mindspore_thor.run.task import Evaluation
from mindspore_thor.signals import StopRequest


class Trainer:
    """Trains from a position to the end of the last epoch, or until it is asked to stop.

    Args:
        session: Data, net, optimizer and step, in the state of ``position``.
        folder: Where results go; None on every rank but one, which then writes and prints nothing.
        position: Where the loop stands; updated in place.
        stop: The request to stop.

    Attributes:
        stopped: Whether the run was stopped by a signal, on whichever rank it arrived.
    """

    def __init__(
        self, session: Session, folder: RunFolder | None, position: Position, stop: StopRequest
    ) -> None:
        self.stopped = False
        self._alone = world()[1] == 1
        self._session = session
        self._folder = folder
        self._position = position
        self._stop = stop
        self._options = session.config.train
        self._steps = session.train_data.steps_per_epoch
        self._task = session.config.task
        self._progress = Progress(
            self._options.epochs,
            self._steps,
            self._options.log_every,
            self._task.metrics,
            quiet=folder is None,
        )
        self._evaluate = self._task.evaluation(session.net, session.eval_data, session.config.data)
        keep_graphs(self._evaluate, session.step.store, session.step)
        if session.step.store is not None:
            session.step.store.tell = self._progress.message
        self._pending: list[Tensor] = []
        # Reading the loss waits for the device. That is harmless on a CPU: check every update.
        on_cpu = ms.get_context("device_target") == "CPU"
        self._read_every = 1 if on_cpu else (self._options.log_every or self._steps)
        self._clock = 0.0
        self._saved_at: tuple[int, int, int] | None = None
        self._said_no_curves = False

    def run(self) -> None:
        """Train.

        Raises:
            TrainingError: If too many updates in a row were skipped.
            UserError: If an image cannot be read, or the system refuses to write a file.
        """
        for line in self._task.notes(self._session.train_data):
            self._progress.message(line)
        report = getattr(self._session.optimizer, "layer_report", None)
        if report is not None:
            found = report()
            self._progress.message(found.summary())
            if self._session.config.train.layer_table:
                self._progress.message(found.table())
        try:
            self._run_epochs()
        finally:
            self._progress.close()

    def _run_epochs(self) -> None:
        position = self._position
        self._clock = time.monotonic() - position.wall_clock
        while True:
            if _epoch_is_over(position):
                if position.epoch >= self._options.epochs:
                    return
                _begin_epoch(position)
            self._train_epoch()
            if not self.stopped:
                self._finish_epoch()
            self._ask_to_stop()
            if self.stopped:
                self._save()
                return

    def _ask_to_stop(self) -> None:
        """Note whether any rank was asked to stop; the ranks ask at the same updates.

        A signal reaches them at different moments: a rank that left on its own account would leave
        the others waiting for its gradients.
        """
        self.stopped = self.stopped or any_rank(self._stop.requested())

    def _train_epoch(self) -> None:
        """Train the rest of the current epoch; leave after the current update on a stop signal."""
        position, session = self._position, self._session
        self._progress.start_epoch(position.epoch, position.step)
        began = time.monotonic() - position.epoch_seconds
        every = self._options.checkpoint_every_steps
        for batch in self._batches():
            self._pending.append(session.step(*self._task.inputs(*batch)))
            position.step += 1
            self._tell_compiled()
            self._stop.defer()  # before this there is nothing to save, and compiling takes long
            if len(self._pending) >= self._read_every or position.step == self._steps:
                self._read_losses()
            position.epoch_seconds = time.monotonic() - began
            mean = position.loss_sum / position.loss_count if position.loss_count else None
            self._progress.step(position.epoch, position.step, mean, self._skipped, self._step_ms())
            if every and position.step % every == 0 and position.step < self._steps:
                self._save()
            # Where the losses are read, the ranks have waited for the device anyway.
            if self._alone or not self._pending:
                self._ask_to_stop()
            if self.stopped:
                break
        self._read_losses()
        self._progress.close()

    def _tell_compiled(self) -> None:
        store = self._session.step.store
        news = store.news() if store is not None else ""
        if news:
            self._progress.message(news)

    def _batches(self) -> Iterator[tuple[Any, ...]]:
        """The rest of the epoch; where it cannot be read, what was trained before is saved."""
        position = self._position
        try:
            yield from self._session.train_data.epoch(position.epoch - 1, start=position.step)
        except Exception:
            self._read_losses()
            saved_rows = self._saved_at[2] if self._saved_at else 0
            if position.step or saved_rows < len(position.metrics):
                self._save_alone()
            raise

    @contextmanager
    def _saving_on_error(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            self._save_alone()
            raise

    def _save_alone(self) -> None:
        """Save before an error ends the run. Several ranks could only do that together."""
        if self._alone and self._folder is not None:
            self._save()
            path = self._folder.checkpoint(self._position.epoch, self._position.step)
            self._progress.message(f"saved; continue with --resume_ckpt {path}")

    def _step_ms(self) -> float:
        return 1000.0 * self._position.epoch_seconds / self._position.step

    @property
    def _skipped(self) -> int:
        return _number(self._session.step.skipped)

    def _read_losses(self) -> None:
        """Wait for the pending updates; count their losses and look for a series of bad ones."""
        losses = [float(loss.asnumpy()) for loss in self._pending]
        self._pending.clear()
        finite = [loss for loss in losses if np.isfinite(loss)]
        self._position.loss_sum += sum(finite)
        self._position.loss_count += len(finite)
        in_a_row = _number(self._session.step.skipped_in_a_row)
        if in_a_row >= self._options.max_skipped_updates:
            kept = list_checkpoints(self._folder.path) if self._folder is not None else []
            last = kept[-1][2] if kept else "none"
            raise TrainingError(
                f"stopped at epoch {self._position.epoch}, step {self._position.step}: {in_a_row} "
                "updates in a row were skipped because the loss or a gradient was not finite; "
                f"lower the learning rate or raise the damping (last checkpoint: {last})"
            )

    def _finish_epoch(self) -> None:
        """Save and evaluate where due, and report; a stop signal cuts the evaluation short.

        What was trained is saved first, so that no evaluation can lose it, and once more with the
        epoch's results. A run resumed from the first one evaluates again.
        """
        position, options = self._position, self._options
        row: dict[str, Any] = {
            "epoch": position.epoch,
            "step": position.epoch * self._steps,
            "loss": position.loss_sum / position.loss_count if position.loss_count else None,
            "train_time": round(position.epoch_seconds, 3),
            "step_ms": round(self._step_ms(), 3),
            "learning_rate": self._session.learning_rate_at(position.epoch * self._steps - 1),
            "skipped": self._skipped,
        }
        failed = getattr(self._session.optimizer, "failed_inversions", None)
        if failed is not None:
            row["failed_inversions"] = failed
        row.update(getattr(self._session.optimizer, "trace_counts", None) or {})
        last = position.epoch == options.epochs
        if last or (options.eval_every and position.epoch % options.eval_every == 0):
            self._save_if_due()
            with self._saving_on_error():
                # Only together could the ranks stop in the middle of it.
                measured = self._evaluate(self._stop.requested if self._alone else None)
            if measured is None:
                return
            row.update(measured)
            self._write(self._evaluate)
            self._tell_compiled()
        position.wall_clock = time.monotonic() - self._clock
        row["wall_clock"] = round(position.wall_clock, 3)
        position.metrics.append(row)
        with self._saving_on_error():
            self._progress.finish_epoch(row)
            if self._folder is not None:
                self._folder.write_metrics(position.metrics)
            self._keep_best(row)
        self._save_if_due()
        if self._folder is not None:
            self._draw(self._folder.curves)

    def _write(self, evaluation: Evaluation) -> None:
        with self._saving_on_error():
            for name, text in evaluation.files.items():
                if self._folder is not None:
                    self._folder.write(name, text.encode("utf-8"))

    def _draw(self, path: Path) -> None:
        """Draw the picture; whatever prevents it is said once, and training goes on."""
        config = self._session.config
        title = f"{config.model.name} on {config.data.name}, {config.optimizer.name}"
        problem = ""
        if os.path.lexists(path) and not is_own_picture(path):
            problem = "the one in the folder is not of this program and stays"
        else:
            try:
                split = "validation" if self._task.tested(config.data) else "test"
                if not draw_curves(self._position.metrics, path, title, self._task, split):
                    problem = (
                        "matplotlib is missing; pip install matplotlib (the package's extra 'plot')"
                    )
            except Exception as error:
                problem = shown(f"matplotlib failed: {str(error) or type(error).__name__}", 200)
        if problem and not self._said_no_curves:
            self._said_no_curves = True
            self._progress.message(f"no {path.name}: {problem}")

    def _keep_best(self, row: dict[str, Any]) -> None:
        value = row.get(self._task.metrics[0])
        best = self._position.best_accuracy
        if value is None:
            return
        sign = -1.0 if self._task.lower_is_better else 1.0
        # A value that is not a number is never the best, not even the first one.
        if not np.isfinite(value) or (best is not None and sign * value <= sign * best):
            return
        self._position.best_accuracy = value
        if self._options.keep_best and self._folder is not None:
            save_weights(
                self._folder.best_checkpoint,
                self._session.weight_names,
                self._session.step.parameters_dict(),
            )

    def _save_if_due(self) -> None:
        epoch, every = self._position.epoch, self._options.checkpoint_every_epochs
        if epoch == self._options.epochs or (every and epoch % every == 0):
            self._save()

    def _save(self) -> None:
        position = self._position
        if self._saved_at == (position.epoch, position.step, len(position.metrics)):
            return
        position.wall_clock = time.monotonic() - self._clock
        session = self._session
        state = gather_state(session.step.parameters_dict(), session.optimizer)
        if self._folder is not None:
            path = self._folder.checkpoint(position.epoch, position.step)
            try:
                save_checkpoint(path, session.weight_names, state, position)
            except UserError as error:
                raise UserError(f"{error}, then {self._how_to_go_on()}") from error
            prune_checkpoints(self._folder.path, self._options.keep_checkpoints)
        self._saved_at = (position.epoch, position.step, len(position.metrics))
        # The others wait: a rank that leaves earlier might have the job killed before it is saved.
        any_rank(False)

    def _how_to_go_on(self) -> str:
        kept = list_checkpoints(self._folder.path) if self._folder is not None else []
        return f"continue with --resume_ckpt {shown(kept[-1][2])}" if kept else "start the run anew"

    def summary(self) -> str:
        """Return the line for the end of a finished run."""
        row = self._position.metrics[-1]
        best = self._position.best_accuracy
        names = self._task.metrics
        parts = [f"{name} {row[name]:.4f}" for name in names]
        if best is not None:
            parts.append(f"best {names[0]} {best:.4f}")
        parts.append(f"training time {self._position.wall_clock:.1f} s")
        return f"finished: {', '.join(parts)}"


def _number(parameter: Any) -> int:
    return int(parameter.asnumpy().item())


def _epoch_is_over(position: Position) -> bool:
    """An epoch is over once its row stands in the metrics, not with its last update."""
    done = position.metrics[-1]["epoch"] if position.metrics else 0
    return bool(position.epoch == done)


def _begin_epoch(position: Position) -> None:
    position.epoch += 1
    position.step = 0
    position.loss_sum, position.loss_count = 0.0, 0
    position.epoch_seconds = 0.0
