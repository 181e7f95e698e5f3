"""A study's two figures: the metric against epochs and against time, median and single seeds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from benchmarks.harness.analysis import Summary, metric_curve, summarise
from benchmarks.harness.spec import BASELINE, Study
from benchmarks.harness.store import load_json, load_runs
from benchmarks.harness.tables import figure_names


def draw(study: Study, results: Path, folder: Path) -> list[Path]:
    """Draw what the stored runs allow.

    Args:
        study: The study.
        results: The folder of its stored logs.
        folder: The model family's folder.

    Returns:
        The files written: none without runs, one without step times.
    """
    summaries = summarise(study, load_runs(study, results), load_json(results / "step_time.json"))
    if not summaries:
        return []
    epochs, time = (folder / name for name in figure_names(study))
    epochs.parent.mkdir(parents=True, exist_ok=True)
    _draw(study, summaries, epochs, None)
    timed = {name: item for name, item in summaries.items() if item.seconds is not None}
    if not timed:
        return [epochs]
    _draw(study, timed, time, {name: item.seconds or 0.0 for name, item in timed.items()})
    return [epochs, time]


def _draw(
    study: Study, summaries: dict[str, Summary], path: Path, seconds: dict[str, float] | None
) -> None:
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullLocator

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(study.title)
    colours = colormaps["tab20"]
    worst = math.inf if study.task.lower_is_better else -math.inf
    for name, item in summaries.items():
        # By its place in the study, so that a method keeps its colour in every figure.
        known = study.methods.get(name)
        order = list(study.methods).index(known.tuned_as) if known else len(study.methods)
        colour = colours((2 * order + (order >= 10)) % 20)
        dashes = "--" if known and known.tuned_as != name else "-"
        scale = 1.0 if seconds is None else seconds[name]
        for run in item.runs if len(item.runs) > 1 else []:
            curve = metric_curve(run.rows, study.metric, worst)
            _line(axes, study, curve, scale, colour, dashes, None)
        _line(axes, study, item.curve, scale, colour, dashes, name)
    if seconds is None:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    baseline = summaries.get(BASELINE)
    if baseline is not None and math.isfinite(baseline.best):
        # What the others have to reach, and how soon.
        best = _unit(study) * baseline.best
        axes.axhline(best, color="0.4", linewidth=0.9, linestyle=":", label=f"{BASELINE}'s best")
    axes.set_xlabel("epoch" if seconds is None else "time (s): epochs x seconds per epoch")
    unit = " (%)" if study.task.percent else ""
    axes.set_ylabel(f"test {study.metric.replace('_', ' ')}{unit}")
    if not study.task.percent:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.grid(True, alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=2, fontsize=9)
    # No creation date or version: the same logs give the same file with the same matplotlib.
    figure.savefig(path, format="png", dpi=130, metadata={"Software": None})


def _unit(study: Study) -> float:
    """How many of the axis's units the metric's 1 is."""
    return 100.0 if study.task.percent else 1.0


def _line(
    axes: Any,
    study: Study,
    curve: list[float],
    scale: float,
    colour: Any,
    dashes: str,
    label: str | None,
) -> None:
    points = [(scale * (k + 1), _unit(study) * y) for k, y in enumerate(curve) if math.isfinite(y)]
    if not points:
        return
    xs, ys = zip(*points)
    style = {"linewidth": 0.7, "alpha": 0.5} if label is None else {"linewidth": 1.9}
    axes.plot(xs, ys, color=colour, linestyle=dashes, label=label, **style)
