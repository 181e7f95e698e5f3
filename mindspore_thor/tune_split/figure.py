"""The trade-off as a picture, like the paper's Figure 5."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mindspore_thor.tune_split.choice import Choice


def draw_trade_off(
    splits: Sequence[int], shares: Sequence[float], choice: Choice, title: str, path: Path
) -> bool:
    """Draw speed and preserved share over the split dimension.

    Args:
        splits: Candidates.
        shares: Preserved share of each.
        choice: What was chosen.
        title: Text above the picture.
        path: The PNG file.

    Returns:
        Whether it was drawn: False without matplotlib (the extra ``plot``).
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(title)
    axes.plot(
        splits, choice.performance, color="#2a7f9e", marker="o", label="speed of one inversion"
    )
    axes.plot(splits, shares, color="#c8553d", marker="s", label="layers that lose < 1 %")
    axes.axvline(choice.split, color="#4c566a", linestyle="--", linewidth=1)
    axes.annotate(
        f"split {choice.split}",
        (choice.split, 1.0),
        textcoords="offset points",
        xytext=(5, -4),
        color="#4c566a",
    )
    if choice.crossing is not None:
        x, y = choice.crossing
        axes.plot([x], [y], color="black", marker="x", markersize=9, linestyle="none")
        axes.annotate(f"({x:.0f}, {y:.2f})", (x, y), textcoords="offset points", xytext=(8, 6))
    axes.set_xscale("symlog", base=2, linthresh=max(2, splits[0]))
    axes.set_xticks(list(splits), [str(split) for split in splits])
    axes.minorticks_off()
    axes.set_ylim(0.0, 1.05)
    axes.set_xlabel("split dimension")
    axes.grid(True, alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center right")
    figure.savefig(path, format="png", dpi=130)
    return True
