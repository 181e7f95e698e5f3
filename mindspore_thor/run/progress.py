"""What a run says while it works: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from mindspore_thor.run.tasks import TASKS


class Progress:
    """Reports updates, epochs and messages.

    Args:
        epochs: Epochs of the whole run.
        steps_per_epoch: Updates per epoch.
        log_every: Updates between plain lines within an epoch; 0 for none.
        metrics: Names of the metrics that an epoch's row may have.
        quiet: Whether to say nothing at all, because another rank does.
    """

    def __init__(
        self,
        epochs: int,
        steps_per_epoch: int,
        log_every: int,
        metrics: tuple[str, ...] = TASKS["classify"].metrics,
        quiet: bool = False,
    ) -> None:
        self._metrics = metrics
        self._epochs = epochs
        self._steps = steps_per_epoch
        self._log_every = log_every
        self._quiet = quiet
        self._terminal = not quiet and sys.stderr is not None and sys.stderr.isatty()
        self._bar: Any = None

    def message(self, text: str) -> None:
        """Print one line on standard output, without tearing the bar."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.clear()
        print(text, flush=True)

    def start_epoch(self, epoch: int, done: int) -> None:
        """Open the bar of an epoch.

        Args:
            epoch: The epoch, from 1.
            done: Updates that a resumed run has already finished in it.
        """
        if self._terminal:
            self._bar = tqdm(
                total=self._steps,
                initial=done,
                desc=f"epoch {epoch}/{self._epochs}",
                unit="step",
                leave=False,
                dynamic_ncols=True,
            )

    def step(self, epoch: int, step: int, loss: float | None, skipped: int, step_ms: float) -> None:
        """Report one finished update.

        Args:
            epoch: The epoch, from 1.
            step: Finished updates of this epoch.
            loss: Mean loss of the epoch so far, or None when there was no finite one.
            skipped: Updates skipped so far, in the whole run.
            step_ms: Mean time per update in this epoch, milliseconds.
        """
        if self._bar is not None:
            shown = {"loss": _loss(loss), **({"skipped": skipped} if skipped else {})}
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(step - self._bar.n)
        elif self._log_every and step % self._log_every == 0 and step < self._steps:
            self.message(
                f"epoch: [{epoch}/{self._epochs}] step: [{step}/{self._steps}] "
                f"loss: {_loss(loss)}, per step time: {step_ms:.3f} ms{_skipped(skipped)}"
            )

    def finish_epoch(self, row: dict[str, Any]) -> None:
        """Close the bar and print the epoch's line.

        Args:
            row: The epoch's row of ``metrics.jsonl``.
        """
        self.close()
        self.message(
            f"epoch: [{row['epoch']}/{self._epochs}] loss: {_loss(row['loss'])}, "
            f"epoch time: {row['train_time']:.3f} s, per step time: {row['step_ms']:.3f} ms"
            f"{_traces(row)}{_skipped(row['skipped'])}{_failed(row.get('failed_inversions', 0))}"
        )
        measured = [f"{name}: {row[name]:.4f}" for name in self._metrics if name in row]
        if measured:
            self.message(f"epoch: [{row['epoch']}/{self._epochs}] {', '.join(measured)}")

    def close(self) -> None:
        """Remove the bar, if there is one."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _loss(value: float | None) -> str:
    return "none finite" if value is None else f"{value:.6f}"


def _skipped(count: int) -> str:
    return f", skipped updates: {count}" if count else ""


def _traces(row: dict[str, Any]) -> str:
    """What the trace rule decided since the run began, where there is one."""
    if "trace_kept" not in row:
        return ""
    text = f", inverses renewed: {row['trace_accepted']}, kept: {row['trace_kept']}"
    stopped = row["trace_stopped"]
    return text + (f", layers stopped: {stopped}" if stopped else "")


def _failed(count: int) -> str:
    return f", failed inversions: {count}" if count else ""
