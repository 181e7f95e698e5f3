"""Runs of a study: each one a folder, never done twice, continued where it was cut."""

from __future__ import annotations

import ast
import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import models
from benchmarks.harness.provenance import provenance
from benchmarks.harness.spec import ROOT, Study
from mindspore_thor.errors import UserError
from mindspore_thor.files import held
from mindspore_thor.run.checkpoint import list_checkpoints
from mindspore_thor.run.config import load_config
from mindspore_thor.run.run_folder import CONFIG_NAME, METRICS_NAME

RECIPE_NAME, RUN_NAME, FAILED_NAME = "recipe.yaml", "run.json", "failed.json"
LOG_NAME = "log.txt"
_EXIT_TRAINING = 1
_LOOK_SECONDS = 1.0


class Interrupted(Exception):
    """A stop signal arrived; the current run has saved its state.

    Attributes:
        exit_code: The shell's code for it.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's metrics so far.

    Args:
        folder: The run folder.
    """
    path = folder / METRICS_NAME
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def is_finished(folder: Path, epochs: int) -> bool:
    """Whether a run is over, at its end or because it diverged.

    Args:
        folder: The run folder.
        epochs: Its length.
    """
    rows = read_rows(folder)
    return (folder / FAILED_NAME).is_file() or bool(rows and rows[-1]["epoch"] >= epochs)


def _log(folder: Path) -> list[str]:
    path = folder / LOG_NAME
    if not path.is_file():
        return []
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def figures_of_test(folder: Path) -> dict[str, float] | None:
    """Return what a finished run had on the test split; None where it was not read.

    Args:
        folder: The run folder.
    """
    begin, end = "result: ", " ckpt= "
    for line in reversed(_log(folder)):
        if line.startswith(begin) and end in line:
            with suppress(ValueError, SyntaxError):
                figures = ast.literal_eval(line[len(begin) :].partition(end)[0])
                return {str(name): float(value) for name, value in figures.items()}
    return None


class LimitReached(Exception):
    """As many runs as were asked for have been done, and more are left."""


class Runner:
    """Executes runs of one study by ``train.py``, one after the other.

    Args:
        study: The study.
        folder: Its output folder.
        data_path: Folder of the data set, or None for what the recipes say.
        max_runs: How many runs may be begun or continued; None for all.

    Attributes:
        left: How many still may.
    """

    def __init__(
        self, study: Study, folder: Path, data_path: str | None, max_runs: float | None = None
    ) -> None:
        self.left = math.inf if max_runs is None else max_runs
        self._study = study
        self._folder = folder
        self._data_path = data_path
        self._child: subprocess.Popen[bytes] | None = None
        self._stopped = 0
        self._locks: list[int] = []

    def check_recipes(self, names: list[str]) -> None:
        """Validate all recipes before the first run.

        Args:
            names: The methods that will run.

        Raises:
            UserError: If a recipe is wrong.
        """
        folder = self._folder / "recipes"
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            for index in range(len(self._study.methods[name].candidates)):
                for tuning, ending in ((False, ""), (True, "-tuning")):
                    path = folder / f"{name}-{index + 1}{ending}.yaml"
                    recipe = self._study.recipe(name, index, tuning=tuning)
                    path.write_text(recipe, encoding="utf-8")
                    load_config(path, models)

    @contextmanager
    def exclusive(self, names: list[str]) -> Iterator[None]:
        """Hold the methods' folders, stop orderly on a signal; both while this lasts.

        Args:
            names: The methods that will run. Another process may run others beside them; the
                shorter forms of a method, which share its tuning, go with it.

        Raises:
            UserError: If another process works on one of them.
        """
        former = {
            number: signal.signal(number, self._pass_on)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            with ExitStack() as stack:
                for name in dict.fromkeys(self._study.methods[name].tuned_as for name in names):
                    folder = self._folder / name
                    try:
                        # A run that outlives this process inherits these and keeps others away.
                        self._locks.append(stack.enter_context(held(folder, wait=False)))
                    except BlockingIOError:
                        raise UserError(
                            f"{folder}: another process works on this method; wait for it, give "
                            "others by --only, or another --output_dir"
                        ) from None
                yield
        finally:
            self._locks.clear()
            for number, handler in former.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._stopped = self._stopped or number
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)

    def run(
        self, method: str, candidate: int, label: str, seed: int, *, tuning: bool
    ) -> list[dict[str, Any]]:
        """Do one run, unless it is done already.

        Args:
            method: Name of the method.
            candidate: Which of its candidate settings.
            label: Name of the run's folder below the method's.
            seed: The seed.
            tuning: Whether it belongs to the tuning phase.

        Returns:
            Its rows; not all epochs where the training diverged.

        Raises:
            Interrupted: If a stop signal arrived.
            LimitReached: If it would be one run too many.
            UserError: If the folder holds a run with other settings, or the run ended otherwise.
        """
        folder = self._folder / method / label
        recipe = self._study.recipe(method, candidate, tuning=tuning)
        epochs = self._study.length(method, candidate, tuning=tuning)
        if (folder / RECIPE_NAME).is_file():
            if (folder / RECIPE_NAME).read_text(encoding="utf-8") != recipe:
                raise UserError(
                    f"{folder}: holds a run with other settings; give another --output_dir, or "
                    "remove that folder"
                )
            if is_finished(folder, epochs):
                if not tuning and self._study.validates:
                    self._test_if_missed(folder, f"{method}/{label}")
                return read_rows(folder)
        if not self.left:
            raise LimitReached
        self.left -= 1
        where = f"{method}/{label}"
        arguments = self._prepare(folder, recipe, seed, where)
        if self._stopped:
            raise Interrupted(128 + self._stopped)
        with self._started("train.py", arguments, folder) as child:
            code = self._watch(child, folder, where, epochs)
        return self._concluded(folder, code, where)

    @contextmanager
    def _started(
        self, program: str, arguments: list[str], folder: Path
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start one of the repository's programs; what it prints goes into the run's log."""
        with (folder / LOG_NAME).open("ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, str(ROOT / program), *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                # A Ctrl-C reaches this process alone, which passes one signal on.
                start_new_session=True,
                pass_fds=self._locks,
            )
            yield self._child
            self._child = None

    def _test_if_missed(self, folder: Path, where: str) -> None:
        """Read the test split for a run that was cut between its last epoch and that."""
        if not list_checkpoints(folder) or figures_of_test(folder) is not None:
            return
        arguments = ["--checkpoint_file_path", str(folder)]
        if self._data_path is not None:
            arguments += ["--data_path", self._data_path]
        with self._started("eval.py", arguments, folder) as child:
            code = child.wait()
        self._concluded(folder, code, where)

    def _prepare(self, folder: Path, recipe: str, seed: int, where: str) -> list[str]:
        """Make the run's folder, or find its checkpoint; return the arguments of ``train.py``."""
        kept = list_checkpoints(folder) if folder.is_dir() else []
        if folder.is_dir() and not kept:
            if any(folder.iterdir()) and not (folder / RECIPE_NAME).is_file():
                raise UserError(f"{folder}: not a run of a study; give another --output_dir")
            # Cut before its first checkpoint: there is nothing to continue.
            shutil.rmtree(folder)
        if not kept:
            folder.mkdir(parents=True)
            (folder / RECIPE_NAME).write_text(recipe, encoding="utf-8")
            (folder / RUN_NAME).write_text(
                json.dumps({"seed": seed, **provenance()}, indent=1) + "\n", encoding="utf-8"
            )
        print(f"{where}: {'continued from ' + kept[-1][2].name if kept else 'begun'}", flush=True)
        arguments = ["--config_path", str(folder / RECIPE_NAME), "--train.seed", str(seed)]
        if self._data_path is not None:
            arguments += ["--data_path", self._data_path]
        arguments += ["--output_dir", str(folder)]
        # Compiling is a part of what is measured, in every run alike. The protocol's times are of
        # steps alone, so that its trials may take one another's graphs.
        if not self._study.baselines:
            arguments += ["--train.compile_cache", "false"]
        return arguments + (["--resume_ckpt", str(folder)] if kept else [])

    def _watch(self, child: subprocess.Popen[bytes], folder: Path, where: str, epochs: int) -> int:
        """Show each epoch as it ends, the last ones after the process is gone; return its code."""
        shown = max((row["epoch"] for row in read_rows(folder)), default=0)
        code: int | None = None
        while code is None:
            with suppress(subprocess.TimeoutExpired):
                code = child.wait(_LOOK_SECONDS)
            for row in read_rows(folder):
                if row["epoch"] > shown:
                    shown = row["epoch"]
                    value = row.get(self._study.metric, math.nan)
                    print(
                        f"{where}: epoch {shown} of {epochs}, {self._study.metric} {value:.4f}",
                        flush=True,
                    )
        return code

    def _concluded(self, folder: Path, code: int, where: str) -> list[dict[str, Any]]:
        if self._stopped:
            raise Interrupted(128 + self._stopped)
        lines = _log(folder)
        errors = [line for line in lines if line.startswith("error: ")]
        if code == _EXIT_TRAINING and errors:
            # Diverged: a result as well, and the same one if it were repeated.
            (folder / FAILED_NAME).write_text(
                json.dumps({"message": errors[-1]}) + "\n", encoding="utf-8"
            )
        elif code != 0:
            reason = errors[-1][len("error: ") :] if errors else f"exit code {code}"
            raise UserError(
                f"{where}: {reason}; see {folder / LOG_NAME}, then give the same command again to "
                "continue"
            )
        for path in folder.glob("*.ckpt"):
            path.unlink()
        rows = read_rows(folder)
        value = f"{rows[-1][self._study.metric]:.4f}" if rows else "no epoch"
        state = "diverged" if (folder / FAILED_NAME).is_file() else "done"
        print(f"{where}: {state}, {self._study.metric} {value}", flush=True)
        return rows

    def tune(self, method: str, *, defaults: bool = False) -> int:
        """Choose among a method's candidates by short runs; done at most once.

        The shorter form of a method shares the method's choice.

        Args:
            method: Name of the method.
            defaults: Only the first candidate's run.

        Returns:
            The chosen candidate, from 0; the first one where there is only one.
        """
        method = self._study.methods[method].tuned_as
        known = self._study.methods[method]
        candidates = known.candidates[:1] if defaults else known.candidates
        if len(known.candidates) == 1:
            return 0
        found: list[dict[str, Any]] = []
        for index, settings in enumerate(candidates):
            label = f"tuning-{index + 1}"
            rows = self.run(method, index, label, self._study.tuning_seed, tuning=True)
            found.append({"settings": settings, **self._found(rows, method, index)})
        chosen = best_candidate([row["value"] for row in found], self._study.lower_is_better)
        # Of a default alone nothing is chosen yet.
        head = {} if defaults else {"chosen": chosen}
        path, new = self._folder / method / "tuning.json", {**head, "candidates": found}
        if not (path.is_file() and has_more(json.loads(path.read_text(encoding="utf-8")), new)):
            path.write_text(json.dumps(new, indent=1) + "\n", encoding="utf-8")
        return chosen

    def _found(self, rows: list[dict[str, Any]], method: str, candidate: int) -> dict[str, Any]:
        """What a tuning run is judged by: its last value, or in the protocol its best one.

        None where it did not get there; in the protocol what came before a divergence counts.
        """
        study = self._study
        values = [row.get(study.metric) for row in rows]
        curve = [value if value is not None and math.isfinite(value) else None for value in values]
        if study.baselines:
            known = [value for value in curve if value is not None]
            best = min if study.lower_is_better else max
            return {"value": best(known) if known else None, "curve": curve}
        over = bool(rows) and rows[-1]["epoch"] >= study.length(method, candidate, tuning=True)
        return {"value": curve[-1] if over else None}


def has_more(stored: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether ``new`` has only the first of the stored candidates, as with ``defaults``.

    Args:
        stored: A method's choice, as :meth:`Runner.tune` writes it.
        new: Another one.
    """
    before, after = ([item["settings"] for item in each["candidates"]] for each in (stored, new))
    return len(before) > len(after) and before[: len(after)] == after


def best_candidate(values: list[float | None], lower_is_better: bool) -> int:
    """Return the index of the best value, the first of equals; None is the worst.

    Args:
        values: Metric of each candidate.
        lower_is_better: Whether small values are good.
    """
    sign = -1.0 if lower_is_better else 1.0
    scores = [-math.inf if value is None else sign * value for value in values]
    return scores.index(max(scores))


def resolved_config(folder: Path) -> str:
    """Return the resolved configuration of a run.

    Args:
        folder: The run folder.
    """
    return (folder / CONFIG_NAME).read_text(encoding="utf-8")
