"""The picture of a run: loss and accuracy over epochs and over wall-clock time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindspore_thor.train.evaluate import TOP_1, TOP_5

_LOSS_COLOUR = "#4c566a"
_TOP_1_COLOUR = "#c8553d"
_TOP_5_COLOUR = "#2a7f9e"


def draw_curves(metrics: Sequence[dict[str, Any]], path: Path, title: str) -> bool:
    """Draw a run's metrics into a PNG file, atomically.

    Args:
        metrics: Rows of ``metrics.jsonl``.
        path: The picture.
        title: Text above it.

    Returns:
        Whether it was drawn: False without matplotlib (the extra ``plot``) or without rows.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    if not metrics:
        return False
    # Own canvas instead of pyplot: no global state, no display, usable from any thread.
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12, fontweight="bold")
    panels = figure.subplots(2, 2, sharex="col", sharey="row")
    scale, unit = _time_unit(metrics[-1]["wall_clock"])
    columns = (
        ("epoch", [float(row["epoch"]) for row in metrics]),
        (f"wall-clock time ({unit})", [row["wall_clock"] / scale for row in metrics]),
    )
    for column, (label, places) in enumerate(columns):
        loss, accuracy = panels[0][column], panels[1][column]
        _line(loss, places, metrics, "loss", 1.0, _LOSS_COLOUR, "training loss")
        _line(accuracy, places, metrics, TOP_5, 100.0, _TOP_5_COLOUR, "top-5")
        _line(accuracy, places, metrics, TOP_1, 100.0, _TOP_1_COLOUR, "top-1")
        _mark_best(accuracy, places, metrics)
        accuracy.set_xlabel(label)
        for axes in (loss, accuracy):
            axes.grid(True, alpha=0.3, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("training loss")
    panels[0][0].set_ylim(bottom=0.0)
    panels[1][0].set_ylabel("test accuracy (%)")
    panels[1][0].xaxis.get_major_locator().set_params(integer=True)
    panels[1][1].set_xlim(left=0.0)
    if panels[1][0].lines:
        panels[1][0].legend(loc="lower right", frameon=False)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(temporary, format="png", dpi=130)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _time_unit(seconds: float) -> tuple[float, str]:
    if seconds < 600:
        return 1.0, "s"
    return (60.0, "min") if seconds < 6 * 3600 else (3600.0, "h")


def _line(
    axes: Any,
    places: list[float],
    metrics: Sequence[dict[str, Any]],
    key: str,
    factor: float,
    colour: str,
    label: str,
) -> None:
    """Draw one metric over ``places``; epochs that lack it are left out."""
    points = [(x, factor * row[key]) for x, row in zip(places, metrics) if row.get(key) is not None]
    if points:
        xs, ys = zip(*points)
        axes.plot(xs, ys, color=colour, linewidth=1.8, marker="o", markersize=3.5, label=label)


def _mark_best(axes: Any, places: list[float], metrics: Sequence[dict[str, Any]]) -> None:
    """Write the best top-1 accuracy below its point."""
    points = [(100.0 * row[TOP_1], x) for x, row in zip(places, metrics) if TOP_1 in row]
    if points:
        best, place = max(points, key=lambda point: point[0])
        axes.annotate(
            f"{best:.2f} %",
            (place, best),
            textcoords="offset points",
            xytext=(0, -15),
            ha="center",
            fontsize=9,
            color=_TOP_1_COLOUR,
        )
