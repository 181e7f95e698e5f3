"""A study's figures: the metric against epochs and against time, and whole runs by their length."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from benchmarks.harness.analysis import Summary, metric_curve, summarise
from benchmarks.harness.spec import Study
from benchmarks.harness.store import load_json, load_runs
from benchmarks.harness.tables import figure_names, has_ends


def draw(study: Study, results: Path, folder: Path) -> list[Path]:
    """Draw what the stored runs allow.

    Args:
        study: The study.
        results: The folder of its stored logs.
        folder: The model family's folder.

    Returns:
        The files written: none without runs, one without step times, three where the baseline has
        runs of several lengths.
    """
    summaries = summarise(study, load_runs(study, results), load_json(results / "step_time.json"))
    if not summaries:
        return []
    epochs, time, ends = (folder / name for name in figure_names(study))
    epochs.parent.mkdir(parents=True, exist_ok=True)
    _draw(study, summaries, epochs, None)
    timed = {name: item for name, item in summaries.items() if item.seconds is not None}
    if not timed:
        return [epochs]
    _draw(study, timed, time, {name: item.seconds or 0.0 for name, item in timed.items()})
    if not has_ends(study, summaries):
        return [epochs, time]
    _draw_ends(study, timed, ends)
    return [epochs, time, ends]


def _draw_ends(study: Study, summaries: dict[str, Summary], path: Path) -> None:
    """The best value of every run against the time of the whole run; a method's lengths joined."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    figure.suptitle(f"{study.title}: whole runs")
    points: dict[str, list[tuple[float, float]]] = {}
    for name, item in summaries.items():
        known = study.methods.get(name)
        if known is None or item.seconds is None or not math.isfinite(item.best):
            continue
        end = (known.epochs * item.seconds, _unit(study) * item.best)
        points.setdefault(known.tuned_as, []).append(end)
    lines: dict[str, Any] = {}
    for name, found in points.items():
        xs, ys = zip(*sorted(found))
        wide = 2.6 if name == study.baseline else 1.2
        (lines[name],) = axes.plot(xs, ys, "o-", color=_colour(study, name), lw=wide, ms=5)
    _style(axes, study, in_epochs=False)
    axes.set_xlabel("time of the whole run (s): epochs x seconds per epoch")
    axes.set_ylabel(_ylabel(study))
    _finish(figure, lines, path)


def _panels(study: Study, summaries: dict[str, Summary]) -> list[tuple[str, list[Summary]]]:
    """One panel for every length of runs, the budget first: its heading and its methods.

    The baseline's longer runs stand beside the budget's, which are measured by them.
    """
    panels: dict[int, list[Summary]] = {}
    for name, item in summaries.items():
        known = study.methods.get(name)
        length = min(known.epochs, study.epochs) if known else study.epochs
        panels.setdefault(length, []).append(item)
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
        for place, item in enumerate(items):
            known = study.methods.get(item.method)
            name = label = known.tuned_as if known else item.method
            scale = 1.0 if seconds is None else seconds[item.method]
            dashes = "-"
            if known is not None and known.epochs > study.epochs:
                label, dashes = f"{name}, {known.epochs} epochs", "--"
            line = _curves(axes, study, item, scale, _colour(study, name), dashes)
            if line is not None:
                # Where curves coincide the study's first method is to be seen.
                line.set_zorder(3.0 - place / len(items))
                lines.setdefault(label, line)
        baseline = summaries.get(study.baseline)
        if baseline is not None and math.isfinite(baseline.best):
            # What the others have to reach, and how soon.
            best = _unit(study) * baseline.best
            line = axes.axhline(best, color="0.3", lw=0.9, linestyle=":")
            lines[f"{study.baseline}'s best"] = line
        axes.set_title(heading, fontsize=10)
        _style(axes, study, in_epochs=seconds is None)
    if study.percent:
        # A single seed that fell far for an epoch must not press all the others together.
        low, high = _range_of_medians(study, [item for _, items in panels for item in items])
        grid[0].set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    grid[0].set_ylabel(_ylabel(study))
    _finish(figure, lines, path)


def _range_of_medians(study: Study, items: list[Summary]) -> tuple[float, float]:
    """The smallest and the largest value of all medians in the axis's unit, at least 1 apart."""
    values = [y for item in items for y in _points(study, item.curve, 1.0)[1]] or [0.0]
    return min(values), max(*values, min(values) + 1.0)


def _finish(figure: Any, lines: dict[str, Any], path: Path) -> None:
    figure.legend(lines.values(), lines.keys(), loc="outside right center", frameon=False)
    # No creation date or version: the same logs give the same file with the same matplotlib.
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})


def _ylabel(study: Study) -> str:
    unit = " (%)" if study.percent else ""
    split = "validation" if study.validates else "test"
    return f"{split} {study.metric.removeprefix('valid_').replace('_', ' ')}{unit}"


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
    if not study.percent:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.grid(True, alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _unit(study: Study) -> float:
    """How many of the axis's units the metric's 1 is."""
    return 100.0 if study.percent else 1.0


def _curves(axes: Any, study: Study, item: Summary, scale: float, colour: Any, dashes: str) -> Any:
    """Draw a method's median, and thinly its single seeds; return the median's line, if any."""
    worst = math.inf if study.lower_is_better else -math.inf
    for run in item.runs if len(item.runs) > 1 else []:
        xs, ys = _points(study, metric_curve(run.rows, study.metric, worst), scale)
        axes.plot(xs, ys, color=colour, linestyle=dashes, linewidth=0.7, alpha=0.5)
    xs, ys = _points(study, item.curve, scale)
    if not xs:
        return None
    return axes.plot(xs, ys, color=colour, linestyle=dashes, linewidth=1.9)[0]


def _points(study: Study, curve: list[float], scale: float) -> tuple[list[float], list[float]]:
    """Abscissas and ordinates of a curve's finite values."""
    finite = [k for k, y in enumerate(curve) if math.isfinite(y)]
    return [scale * (k + 1) for k in finite], [_unit(study) * curve[k] for k in finite]
