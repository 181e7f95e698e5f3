"""The protocol's pictures: performance profiles, and one panel of curves per workload."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.protocol import (
    MOST_FACTOR,
    Workload,
    best_trial,
    find_target,
    load_workload,
    performance_ratios,
    profile,
    times,
)
from benchmarks.harness.protocol_page import CURVES, PROFILE, short
from benchmarks.harness.spec import Study

_WIDE = 5.0
"""From which factor between its largest and smallest value an error is drawn on a log scale."""


def draw_protocol(studies: Sequence[Study], results: Path, folder: Path) -> list[Path]:
    """Draw what the stored runs allow.

    Args:
        studies: The workloads.
        results: Folder with one folder of logs per study.
        folder: Where the page is.

    Returns:
        The files written; none before there is a workload with a target and step times.
    """
    workloads = [load_workload(study, results / study.name) for study in studies]
    if not times(workloads, tuned=True):
        return []
    names = list(dict.fromkeys(name for study in studies for name in study.methods))
    colours = {name: _colour(place) for place, name in enumerate(names)}
    paths = [folder / PROFILE, folder / CURVES]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    _draw_profiles(workloads, colours, paths[0])
    _draw_curves(workloads, colours, paths[1])
    return paths


def _colour(place: int) -> Any:
    from matplotlib import colormaps

    return colormaps["tab20"]((2 * place + (place >= 10)) % 20)


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _finish(figure: Any, lines: dict[str, Any], path: Path) -> None:
    figure.legend(lines.values(), lines.keys(), loc="outside right center", frameon=False)
    # No creation date or version: the same logs give the same file with the same matplotlib.
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})


def steps(ratios: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the corners of a performance profile, to be drawn with steps behind each point.

    Args:
        ratios: From :func:`~benchmarks.harness.protocol.performance_ratios`.

    Returns:
        Factors from 1 to the largest that is drawn, and the shares from there on.
    """
    inside = {ratio for ratio in ratios if ratio <= MOST_FACTOR}
    factors = sorted({1.0, *inside, MOST_FACTOR})
    return factors, [profile(ratios, factor) for factor in factors]


def _draw_profiles(workloads: Sequence[Workload], colours: dict[str, Any], path: Path) -> None:
    figure = _figure(11, 4.6)
    lines: dict[str, Any] = {}
    grid = figure.subplots(1, 2, sharey=True)
    for axes, tuned, heading in zip(grid, (True, False), ("five trials", "defaults")):
        taken = times(workloads, tuned=tuned)
        for place, (name, ratios) in enumerate(performance_ratios(taken).items()):
            xs, ys = steps(ratios)
            # Steps coincide often: a small shift keeps all of them in sight.
            shifted = [y + 0.004 * place for y in ys]
            (lines[name],) = axes.step(xs, shifted, where="post", color=colours[name], lw=1.8)
        axes.set_title(f"{heading}, {len(taken)} workload(s)", fontsize=10)
        axes.set_xlabel("factor on the fastest method's time to the target")
        axes.set_xlim(1.0, MOST_FACTOR)
        axes.grid(True, alpha=0.3, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylim(-0.02, 1.08)
    grid[0].set_ylabel("share of workloads within it")
    _finish(figure, lines, path)


def _draw_curves(workloads: Sequence[Workload], colours: dict[str, Any], path: Path) -> None:
    drawn = [workload for workload in workloads if workload.curves and workload.seconds]
    columns = min(3, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    figure = _figure(2.0 + 4.2 * columns, 3.8 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    lines: dict[str, Any] = {}
    for axes in grid.flat[len(drawn) :]:
        axes.set_visible(False)
    for axes, workload in zip(grid.flat, drawn):
        _panel(axes, workload, colours, lines)
    _finish(figure, lines, path)


def _panel(axes: Any, workload: Workload, colours: dict[str, Any], lines: dict[str, Any]) -> None:
    """The trial with the best value of each method, against time; its default if that is all."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    study = workload.study
    unit = 100.0 if study.percent else 1.0
    drawn: list[float] = []
    for name, curves in workload.curves.items():
        seconds = workload.seconds.get(name)
        if seconds is None:
            continue
        tuned = bool(workload.trials(name, tuned=True))
        curve = curves[best_trial(workload, name) if tuned else 0]
        dashes = "-" if tuned else "--"
        points = [(seconds * k, unit * y) for k, y in enumerate(curve, 1) if math.isfinite(y)]
        if points:
            xs, ys = zip(*points)
            drawn += ys
            label = name if tuned else f"{name}, default"
            (lines[label],) = axes.plot(
                xs, ys, dashes, color=colours[name], lw=1.6, marker=".", ms=4
            )
    target = find_target(workload, tuned=True)
    if target is not None:
        lines["target"] = axes.axhline(unit * target.value, color="0.3", lw=0.9, linestyle=":")
    axes.set_title(short(study), fontsize=10)
    axes.set_xlabel("time (s): epochs x seconds per epoch")
    metric = study.metric.removeprefix("valid_").replace("_", " ")
    axes.set_ylabel(f"validation {metric}{' (%)' if study.percent else ''}")
    axes.set_xlim(left=0.0)
    if not study.percent and min(drawn, default=1.0) > 0 and max(drawn) > _WIDE * min(drawn):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
