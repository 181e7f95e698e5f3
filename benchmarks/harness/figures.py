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


def _panels(study: Study, summaries: dict[str, Summary]) -> list[tuple[str, list[Summary]]]:
    """One panel for every length of runs, the budget first: its heading and its methods."""
    panels: dict[int, list[Summary]] = {}
    for name, item in summaries.items():
        known = study.methods.get(name)
        panels.setdefault(known.epochs if known else study.epochs, []).append(item)
    lengths = sorted(panels, reverse=True)
    return [(f"{length} epochs" if len(lengths) > 1 else "", panels[length]) for length in lengths]


def _draw(
    study: Study, summaries: dict[str, Summary], path: Path, seconds: dict[str, float] | None
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(study, summaries)
    figure = Figure(figsize=(3.5 + 4.5 * len(panels), 5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(study.title)
    # With one scale for all panels what lies further left is sooner, in whichever it is.
    grid = figure.subplots(
        1, len(panels), sharey=True, sharex=seconds is not None, squeeze=False
    ).flat
    lines: dict[str, Any] = {}
    for axes, (heading, items) in zip(grid, panels):
        for item in items:
            known = study.methods.get(item.method)
            name = known.tuned_as if known else item.method
            scale = 1.0 if seconds is None else seconds[item.method]
            line = _curves(axes, study, item, scale, _colour(study, name))
            if line is not None:
                lines.setdefault(name, line)
        baseline = summaries.get(BASELINE)
        if baseline is not None and math.isfinite(baseline.best):
            # What the others have to reach, and how soon.
            best = _unit(study) * baseline.best
            lines[f"{BASELINE}'s best"] = axes.axhline(best, color="0.3", lw=0.9, linestyle=":")
        axes.set_title(heading, fontsize=10)
        _style(axes, study, in_epochs=seconds is None)
    unit = " (%)" if study.task.percent else ""
    grid[0].set_ylabel(f"test {study.metric.replace('_', ' ')}{unit}")
    figure.legend(lines.values(), lines.keys(), loc="outside right center", frameon=False)
    # No creation date or version: the same logs give the same file with the same matplotlib.
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})


def _colour(study: Study, method: str) -> Any:
    """A method's colour, by its place in the study, so that it is the same in every figure."""
    from matplotlib import colormaps

    known = list(study.methods)
    order = known.index(method) if method in known else len(known)
    return colormaps["tab20"]((2 * order + (order >= 10)) % 20)


def _style(axes: Any, study: Study, *, in_epochs: bool) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullLocator

    axes.set_xlabel("epoch" if in_epochs else "time (s): epochs x seconds per epoch")
    if in_epochs:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        axes.set_xlim(left=0.0)
    if not study.task.percent:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.grid(True, alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _unit(study: Study) -> float:
    """How many of the axis's units the metric's 1 is."""
    return 100.0 if study.task.percent else 1.0


def _curves(axes: Any, study: Study, item: Summary, scale: float, colour: Any) -> Any:
    """Draw a method's median, and thinly its single seeds; return the median's line, if any."""
    worst = math.inf if study.task.lower_is_better else -math.inf
    for run in item.runs if len(item.runs) > 1 else []:
        xs, ys = _points(study, metric_curve(run.rows, study.metric, worst), scale)
        axes.plot(xs, ys, color=colour, linewidth=0.7, alpha=0.5)
    xs, ys = _points(study, item.curve, scale)
    return axes.plot(xs, ys, color=colour, linewidth=1.9)[0] if xs else None


def _points(study: Study, curve: list[float], scale: float) -> tuple[list[float], list[float]]:
    """Abscissas and ordinates of a curve's finite values."""
    finite = [k for k, y in enumerate(curve) if math.isfinite(y)]
    return [scale * (k + 1) for k in finite], [_unit(study) * curve[k] for k in finite]
