"""From stored runs to the figures of a study: curves, epochs to a target, time to accuracy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.spec import Study
from benchmarks.harness.store import Run


@dataclass(frozen=True)
class Summary:
    """What the runs of one method showed.

    Attributes:
        method: Name of the method.
        runs: Its runs.
        curve: Median over the seeds of the metric after each epoch, from epoch 1.
        best: Best value of that curve.
        best_epoch: Its epoch.
        last: Its last value.
        seconds: Seconds per epoch, from the step times, or None where they were not measured.
        ratio: Those as a multiple of the baseline's.
    """

    method: str
    runs: list[Run]
    curve: list[float]
    best: float
    best_epoch: int
    last: float
    seconds: float | None
    ratio: float | None


def metric_curve(rows: Sequence[dict[str, Any]], metric: str, worst: float) -> list[float]:
    """Return the metric after each epoch; an epoch that was not evaluated repeats the one before.

    Args:
        rows: One row per epoch.
        metric: Its name.
        worst: What stands for a missing or not finite value.
    """
    curve: list[float] = []
    for row in rows:
        value = row.get(metric)
        if value is None:
            curve.append(curve[-1] if curve else worst)
        else:
            curve.append(value if math.isfinite(value) else worst)
    return curve


def median_curve(curves: Sequence[Sequence[float]], worst: float) -> list[float]:
    """Return the median over the runs after each epoch.

    Args:
        curves: One per run; a run that diverged is shorter.
        worst: What a diverged run counts as after its end.
    """
    length = max((len(curve) for curve in curves), default=0)
    padded = [[*curve, *[worst] * (length - len(curve))] for curve in curves]
    return [statistics.median(values) for values in zip(*padded)]


def epochs_to(curve: Sequence[float], target: float, lower_is_better: bool) -> int | None:
    """Return the first epoch, from 1, whose value is at least as good as the target.

    Args:
        curve: Metric after each epoch.
        target: The value to reach.
        lower_is_better: Whether small values are good.

    Returns:
        The epoch, or None where no epoch got there.
    """
    for epoch, value in enumerate(curve, 1):
        if (value <= target) if lower_is_better else (value >= target):
            return epoch
    return None


def baseline_lengths(study: Study, summaries: dict[str, Summary]) -> list[tuple[int, float]]:
    """Return the lengths of the baseline's runs with the best value of each, shortest first.

    Args:
        study: The study.
        summaries: Method -> summary.
    """
    return sorted(
        (study.methods[name].epochs, item.best)
        for name, item in summaries.items()
        if study.is_baseline(name)
    )


def equivalent_epochs(
    known: Sequence[tuple[int, float]], value: float, lower_is_better: bool
) -> float | None:
    """Return how long a run has to be for a value, read between runs of several lengths.

    Between two lengths the value is taken to be linear in the logarithm of the length.

    Args:
        known: Length in epochs and value of each run, shortest first.
        value: The value.
        lower_is_better: Whether small values are good.

    Returns:
        Epochs: math.inf where every run is worse, 0 where the shortest one is better; None
        without two finite runs.
    """
    sign = -1.0 if lower_is_better else 1.0
    points = [(length, sign * there) for length, there in known if math.isfinite(there)]
    if len(points) < 2:
        return None
    goal = sign * value
    if goal < points[0][1]:
        return 0.0
    for (short, low), (long, high) in zip(points, points[1:]):
        if low <= goal <= high:
            share = (goal - low) / (high - low) if high > low else 0.0
            return short * (long / short) ** share
    return math.inf if goal > points[-1][1] else float(points[-1][0])


def summarise(
    study: Study, runs: dict[str, list[Run]], step_time: dict[str, Any]
) -> dict[str, Summary]:
    """Summarise each method of a study.

    Args:
        study: The study.
        runs: Method -> its stored runs.
        step_time: Content of ``step_time.json``; may be empty.

    Returns:
        Method -> summary, for the methods with at least one epoch.
    """
    lower = study.lower_is_better
    worst = math.inf if lower else -math.inf
    steps, measured = step_time.get("steps_per_epoch", 0), step_time.get("methods", {})
    found = {}
    for name, group in runs.items():
        curves = [metric_curve(run.rows, study.metric, worst) for run in group]
        curve = median_curve(curves, worst)
        if not curve:
            continue
        best = min(curve) if lower else max(curve)
        time = measured.get(name)
        if time is None and study.is_baseline(name):
            time = measured.get(study.baseline)  # its steps are the same in a run of any length
        found[name] = Summary(
            method=name,
            runs=group,
            curve=curve,
            best=best,
            best_epoch=curve.index(best) + 1,
            last=curve[-1],
            seconds=steps * time["amortised"] if time else None,
            ratio=time["amortised"] / measured[study.baseline]["amortised"] if time else None,
        )
    return found
