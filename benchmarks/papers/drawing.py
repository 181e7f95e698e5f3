"""Pictures of what :mod:`benchmarks.papers.experiments` recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def _panels(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.grid(True, alpha=0.3, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _some(layers: dict[str, Any], count: int = 6) -> list[str]:
    """Layers from the first to the last, evenly spaced."""
    names = list(layers)
    places = np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)
    return [names[i] for i in places]


def _thor_factors(data: dict[str, Any]) -> Any:
    figure, panels = _panels(1, 3, (15, 4.4))
    for axes, key, title in zip(
        panels.flat,
        ("norm_a", "norm_g", "trace"),
        ("|A|, Frobenius", "|G|, Frobenius", "relative change of tr(F + lam I)"),
    ):
        for name in _some(data["layers"]):
            values = np.array(data["layers"][name][key])
            steps = np.array(data["steps"])
            if key == "trace":
                values, steps = np.abs(np.diff(values)) / np.abs(values[:-1]), steps[1:]
            axes.plot(steps, values, linewidth=1.3, label=name)
        axes.set(title=title, xlabel="step", yscale="log")
    panels.flat[2].axhline(0.01, color="black", linewidth=0.8, linestyle="--")
    panels.flat[2].axhline(0.001, color="black", linewidth=0.8, linestyle=":")
    panels.flat[2].annotate(
        "w1 = 0.01 (dashed), w2 = 0.001 (dotted)",
        (0.02, 0.07),
        fontsize=8,
        xycoords="axes fraction",
    )
    panels.flat[0].legend(frameon=False, fontsize=8)
    return figure


def _thor_split(data: dict[str, Any]) -> Any:
    figure, panels = _panels(1, 2, (11, 4.4))
    for name, curve in data["runs"].items():
        label = "whole factors" if name == "whole" else f"blocks of {name}"
        for axes, key, scale in zip(panels.flat, ("loss", "top_1_accuracy"), (1.0, 100.0)):
            values = scale * np.array(curve[key])
            axes.plot(np.arange(1, len(values) + 1), values, marker="o", markersize=3, label=label)
    panels.flat[0].set(title="training loss", xlabel="epoch", yscale="log")
    panels.flat[1].set(title="test accuracy (%)", xlabel="epoch")
    panels.flat[1].legend(frameon=False)
    return figure


def _fngd_weights(data: dict[str, Any]) -> Any:
    figure, panels = _panels(2, 3, (14, 7))
    for axes, name in zip(panels.flat, _some(data["layers"])):
        low, middle, high = (np.array(row) for row in data["layers"][name])
        steps = np.arange(len(middle))
        axes.fill_between(steps, low, high, alpha=0.25, linewidth=0, label="quartiles of the batch")
        axes.plot(steps, middle, linewidth=1.2, label="median")
        for epoch in range(1, len(middle) // data["steps_per_epoch"]):
            axes.axvline(epoch * data["steps_per_epoch"], color="black", linewidth=0.8)
        axes.set(title=name, xlabel="step", ylabel="N c")
    panels.flat[0].legend(frameon=False, fontsize=8)
    return figure


def _lngd_fisher(data: dict[str, Any]) -> Any:
    figure, panels = _panels(1, 3, (15, 4.8))
    exact, approximate = np.array(data["exact"]), np.array(data["approximate"])
    difference = exact - approximate
    error = np.linalg.norm(difference) / np.linalg.norm(exact)
    top = np.abs(exact).max()
    titles = ("exact F", "Phi (x) Psi", f"difference; relative norm {error:.3f}")
    for axes, values, title in zip(panels.flat, (exact, approximate, difference), titles):
        # The block is sparse: a root keeps small entries visible.
        shown = np.sign(values) * np.sqrt(np.abs(values) / top)
        image = axes.imshow(shown, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        axes.grid(False)
        axes.set(title=title)
    figure.colorbar(image, ax=panels.ravel().tolist(), label="sign(F) sqrt(|F| / max |F|)")
    return figure


_DRAWERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "thor_factors": _thor_factors,
    "thor_split": _thor_split,
    "fngd_weights": _fngd_weights,
    "lngd_fisher": _lngd_fisher,
}


def draw(name: str, data: dict[str, Any], path: Path) -> None:
    """Draw one experiment.

    Args:
        name: A key of :data:`benchmarks.papers.experiments.EXPERIMENTS`.
        data: What its run returned.
        path: The PNG file to write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # No creation date or version: the same data gives the same file with the same matplotlib.
    _DRAWERS[name](data).savefig(path, format="png", dpi=110, metadata={"Software": None})
