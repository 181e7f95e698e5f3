"""The picture of a run: loss and metrics over epochs and over wall-clock time."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindspore_thor.files import write_file
from mindspore_thor.run.task import Task
from mindspore_thor.run.tasks import TASKS

_LOSS_COLOUR = "#4c566a"
_METRIC_COLOURS = ("#c8553d", "#2a7f9e")
_SPELLED = {"bleu": "BLEU", "chrf": "chrF", "valid_loss": "validation loss per token"}
# Stands in the picture's text chunk, which comes before its pixels.
_ORIGIN = "mindspore_thor"
_HEAD_BYTES = 1024


def is_own_picture(path: Path) -> bool:
    """Return whether a picture was drawn here and may be drawn anew.

    Args:
        path: The file.
    """
    head = b""
    if path.is_file():
        with contextlib.suppress(OSError), path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    return b"Software\0" + _ORIGIN.encode() in head


def draw_curves(
    metrics: Sequence[dict[str, Any]],
    path: Path,
    title: str,
    task: Task = TASKS["classify"],
    split: str = "test",
) -> bool:
    """Draw a run's metrics into a PNG file, atomically.

    Args:
        metrics: Rows of ``metrics.jsonl``.
        path: The picture.
        title: Text above it.
        task: Says which metrics there are.
        split: What was measured after each epoch: "validation" or "test".

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
    factor = 100.0 if task.percent else 1.0
    panels = figure.subplots(2, 2, sharex="col", sharey="row")
    scale, unit = _time_unit(metrics[-1]["wall_clock"])
    columns = (
        ("epoch", [float(row["epoch"]) for row in metrics]),
        (f"wall-clock time ({unit})", [row["wall_clock"] / scale for row in metrics]),
    )
    for column, (label, places) in enumerate(columns):
        loss, accuracy = panels[0][column], panels[1][column]
        _line(loss, places, metrics, "loss", 1.0, _LOSS_COLOUR, "training loss")
        if task.loss_metric:
            name = task.loss_metric
            _line(loss, places, metrics, name, 1.0, _METRIC_COLOURS[0], _label(name))
        for name, colour in reversed(list(zip(task.metrics, _METRIC_COLOURS))):
            _line(accuracy, places, metrics, name, factor, colour, _label(name))
        _mark_best(accuracy, places, metrics, task)
        accuracy.set_xlabel(label)
        for axes in (loss, accuracy):
            axes.grid(True, alpha=0.3, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("loss" if task.loss_metric else "training loss")
    if task.loss_metric:
        panels[0][0].legend(loc="upper right", frameon=False)
    panels[0][0].set_ylim(bottom=0.0)
    panels[1][0].set_ylabel(
        f"{split} accuracy (%)" if task.percent else f"{split} {_label(task.metrics[0])}"
    )
    panels[1][0].xaxis.get_major_locator().set_params(integer=True)
    panels[1][1].set_xlim(left=0.0)
    if panels[1][0].lines:
        panels[1][0].legend(
            loc="upper right" if task.lower_is_better else "lower right", frameon=False
        )
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130, metadata={"Software": _ORIGIN})
    content = picture.getvalue()
    write_file(path, [content], len(content))
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


def _label(metric: str) -> str:
    """``top_1_accuracy`` -> ``top-1``, ``reconstruction_error`` -> ``reconstruction error``."""
    if metric in _SPELLED:
        return _SPELLED[metric]
    if metric.endswith("_accuracy"):
        return metric[: -len("_accuracy")].replace("_", "-")
    return metric.replace("_", " ")


def _mark_best(
    axes: Any, places: list[float], metrics: Sequence[dict[str, Any]], task: Task
) -> None:
    """Write the best value of the task's first metric beside its point."""
    name = task.metrics[0]
    points = [(row[name], x) for x, row in zip(places, metrics) if row.get(name) is not None]
    if points:
        choose = min if task.lower_is_better else max
        best, place = choose(points, key=lambda point: point[0])
        best *= 100.0 if task.percent else 1.0
        axes.annotate(
            f"{best:.2f} %" if task.percent else f"{best:.4g}",
            (place, best),
            textcoords="offset points",
            xytext=(0, 10 if task.lower_is_better else -15),
            ha="center",
            fontsize=9,
            color=_METRIC_COLOURS[0],
        )
