"""The protocol's figures: targets from the baselines' trials, times to them, performance profiles.

A method's time to a target is the smallest over its trials of epochs times seconds per epoch, as in
AlgoPerf's external tuning (Dahl et al. 2023); its performance profile says on which share of the
workloads it is within a factor of the fastest method there (Dolan & More 2002).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.analysis import epochs_to
from benchmarks.harness.spec import Study
from benchmarks.harness.store import load_json

MOST_FACTOR = 4.0
"""Where a performance profile ends, as AlgoPerf's does."""


@dataclass(frozen=True)
class Workload:
    """What is stored of a workload.

    Attributes:
        study: The study.
        curves: Method -> for each trial the metric after each epoch: of all of its present trials,
            or of the first ones. Methods without any are left out.
        seconds: Method -> seconds per epoch, from the step times, where they were measured.
    """

    study: Study
    curves: dict[str, list[list[float]]]
    seconds: dict[str, float]

    def trials(self, method: str, *, tuned: bool) -> list[list[float]]:
        """Return the trials that count.

        Args:
            method: Name of the method.
            tuned: All of them, none where not all are there; otherwise its default alone.

        Returns:
            The metric after each epoch, trial by trial; empty where nothing counts.
        """
        curves = self.curves.get(method, [])
        if not tuned:
            return curves[:1]
        return curves if len(curves) == len(self.study.methods[method].candidates) else []

    @property
    def worst(self) -> float:
        """What stands for a value that is missing or no number."""
        return math.inf if self.study.lower_is_better else -math.inf

    def best(self, curves: Sequence[Sequence[float]]) -> float:
        """Return the best value in some trials.

        Args:
            curves: The trials.
        """
        choose = min if self.study.lower_is_better else max
        return choose((value for curve in curves for value in curve), default=self.worst)


@dataclass(frozen=True)
class Target:
    """What methods have to reach.

    Attributes:
        value: The value of the metric.
        baseline: The baseline that set it.
    """

    value: float
    baseline: str


@dataclass(frozen=True)
class Reached:
    """How a method first reaches a target.

    Attributes:
        trial: Which of its trials, from 0.
        epochs: After how many epochs.
        seconds: Their time, or None without step times.
    """

    trial: int
    epochs: int
    seconds: float | None


def load_workload(study: Study, results: Path) -> Workload:
    """Read what is stored of a workload.

    Args:
        study: The study, one with baselines.
        results: The folder of its stored logs.
    """
    worst = math.inf if study.lower_is_better else -math.inf
    stored = load_json(results / "tuning.json")
    curves = {}
    for name, method in study.methods.items():
        trials = stored.get(name, {}).get("candidates", [])
        present = list(method.candidates[: len(trials)])
        if trials and [item["settings"] for item in trials] == present:
            curves[name] = [
                [worst if value is None else float(value) for value in item["curve"]]
                for item in trials
            ]
    time = load_json(results / "step_time.json")
    seconds = {
        name: float(row["amortised"] * time["steps_per_epoch"])
        for name, row in time.get("methods", {}).items()
    }
    return Workload(study, curves, seconds)


def find_target(workload: Workload, *, tuned: bool) -> Target | None:
    """Return what the better of the baselines reaches.

    Args:
        workload: The workload.
        tuned: With the best of its trials; otherwise with its default.

    Returns:
        The target, or None as long as a baseline's trials are missing, or where none has a finite
        value.
    """
    study = workload.study
    trials = {name: workload.trials(name, tuned=tuned) for name in study.baselines}
    if not all(trials.values()):
        return None
    values = {name: workload.best(curves) for name, curves in trials.items()}
    choose = min if study.lower_is_better else max
    name = choose(values, key=lambda each: values[each])
    return Target(values[name], name) if math.isfinite(values[name]) else None


def reached(workload: Workload, method: str, target: Target, *, tuned: bool) -> Reached | None:
    """Return how a method first reaches a target.

    Args:
        workload: The workload.
        method: Name of the method.
        target: From :func:`find_target`.
        tuned: With the fastest of its trials; otherwise with its default.

    Returns:
        The trial and its epochs, or None where it has no trials, or none gets there.
    """
    found = []
    for trial, curve in enumerate(workload.trials(method, tuned=tuned)):
        epochs = epochs_to(curve, target.value, workload.study.lower_is_better)
        if epochs is not None:
            found.append((epochs, trial))
    if not found:
        return None
    epochs, trial = min(found)
    seconds = workload.seconds.get(method)
    return Reached(trial, epochs, None if seconds is None else epochs * seconds)


def times(
    workloads: Sequence[Workload], *, tuned: bool, tuned_target: bool | None = None
) -> dict[str, dict[str, float]]:
    """Return every method's time to the target on every workload.

    Args:
        workloads: The workloads.
        tuned: With the best of the trials; otherwise with the defaults.
        tuned_target: Whether the target is that of the tuned baselines; None: as the methods.

    Returns:
        Workload -> method -> seconds, math.inf where it does not get there. Workloads without a
        target, and methods without trials or a step time, are not in it.
    """
    found: dict[str, dict[str, float]] = {}
    for workload in workloads:
        target = find_target(workload, tuned=tuned if tuned_target is None else tuned_target)
        if target is None:
            continue
        row = {}
        for name in workload.curves:
            if name not in workload.seconds or not workload.trials(name, tuned=tuned):
                continue
            there = reached(workload, name, target, tuned=tuned)
            row[name] = math.inf if there is None or there.seconds is None else there.seconds
        # Without the baseline's own time there is nothing to compare with.
        if target.baseline in row:
            found[workload.study.name] = row
    return found


def performance_ratios(
    taken: Mapping[str, Mapping[str, float]],
) -> dict[str, list[float]]:
    """Return how far each method is behind the fastest one, on every workload.

    Args:
        taken: From :func:`times`.

    Returns:
        Method -> its time over the fastest method's, workload by workload; only methods that were
        run on all of the workloads.
    """
    rows = list(taken.values())
    names = [name for name in dict.fromkeys(key for row in rows for key in row)]
    complete = [name for name in names if all(name in row for row in rows)]
    return {name: [row[name] / min(row.values()) for row in rows] for name in complete}


def profile(ratios: Sequence[float], factor: float) -> float:
    """Return on which share of the workloads a method is within a factor of the fastest.

    Args:
        ratios: From :func:`performance_ratios`.
        factor: The factor, >= 1.
    """
    return sum(ratio <= factor for ratio in ratios) / len(ratios)


def benchmark_score(ratios: Sequence[float], most: float = MOST_FACTOR) -> float:
    """Return the mean of a performance profile from 1 to ``most``: AlgoPerf's benchmark score.

    Args:
        ratios: From :func:`performance_ratios`.
        most: Where the profile ends.
    """
    return sum(max(0.0, most - ratio) for ratio in ratios) / ((most - 1.0) * len(ratios))


def best_trial(workload: Workload, method: str) -> int:
    """Return a method's trial with the best value, the first of equals.

    Args:
        workload: The workload.
        method: A method that has its trials.
    """
    values = [workload.best([curve]) for curve in workload.curves[method]]
    return values.index(workload.best(workload.curves[method]))


def tested(runs: Sequence[Any], metric: str) -> list[float]:
    """Return the test split's figures in some stored runs.

    Args:
        runs: Of one method, from :func:`benchmarks.harness.store.load_runs`.
        metric: Name of the metric.
    """
    figures = [run.origin.get("test", {}).get(metric) for run in runs]
    return [value for value in figures if value is not None]
