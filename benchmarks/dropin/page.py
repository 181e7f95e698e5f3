"""The tables in docs/results.md and the picture, made of the stored runs alone."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.dropin.runs import Place
from benchmarks.dropin.script import MOMENTUM, NETS, OPTIMIZERS
from benchmarks.harness.analysis import epochs_to, median_curve, metric_curve
from benchmarks.harness.tables import table
from benchmarks.report import replaced
from mindspore_thor.errors import UserError

NAME = "drop_in"
PAGE = Path("docs") / "results.md"
FIGURE = Path("docs") / "figures" / f"{NAME}.png"
NOTHING = "No runs are stored yet."

LOSS, ACCURACY = "loss", "test_accuracy"
_WORST = {LOSS: math.inf, ACCURACY: -math.inf}

_COLOURS = {"momentum": "tab:gray", "thor": "tab:blue", "kfac": "tab:orange"}


@dataclass(frozen=True)
class Pair:
    """The stored runs of a net with an optimizer.

    Attributes:
        net: A key of :data:`NETS`.
        optimizer: A key of :data:`OPTIMIZERS`.
        heads: What is known of every run: seed, rate, epochs, commit, versions.
        rows: Every run's rows, one per epoch.
    """

    net: str
    optimizer: str
    heads: list[dict[str, Any]]
    rows: list[list[dict[str, Any]]]

    def curves(self, metric: str) -> list[list[float]]:
        """Every run's values after each epoch; the worst after the end of one that ended early.

        Args:
            metric: ``loss`` or ``test_accuracy``.
        """
        worst = _WORST[metric]
        found = []
        for head, rows in zip(self.heads, self.rows):
            curve = metric_curve(rows, metric, worst)
            found.append([*curve, *[worst] * (head["epochs"] - len(curve))])
        return found

    def median(self, metric: str) -> list[float]:
        """The median over the runs after each epoch.

        Args:
            metric: ``loss`` or ``test_accuracy``.
        """
        return median_curve(self.curves(metric), _WORST[metric])


Pairs = dict[tuple[str, str], Pair]


def load(folder: Path) -> Pairs:
    """Read what is stored.

    Args:
        folder: Of the stored runs.

    Returns:
        (net, optimizer) -> its runs by seed, in the order of nets and optimizers.
    """
    found: Pairs = {}
    for net in NETS:
        for optimizer in OPTIMIZERS:
            paths = Place(folder, net, optimizer).stored()
            texts = [path.read_text(encoding="utf-8").splitlines() for path in paths]
            runs = [[json.loads(line) for line in text] for text in texts]
            if runs:
                heads, rows = [run[0] for run in runs], [run[1:] for run in runs]
                found[net, optimizer] = Pair(net, optimizer, heads, rows)
    return found


def points(difference: float) -> str:
    """A difference of accuracies as text.

    Args:
        difference: Of shares in [0, 1].
    """
    return f"{100 * difference:+.1f}" if math.isfinite(difference) else "-"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if math.isfinite(value) else "-"


def _row(pair: Pair, base: Pair | None) -> list[str]:
    """A pair beside Momentum on the same net."""
    accuracy, loss = pair.median(ACCURACY), pair.median(LOSS)
    ends = [curve[-1] for curve in pair.curves(ACCURACY)]
    rates = sorted({head["rate"] for head in pair.heads})
    against = epochs = "-"
    if base is not None and base is not pair:
        target = base.median(ACCURACY)[-1]
        against = points(accuracy[-1] - target)
        reached = epochs_to(accuracy, target, lower_is_better=False)
        epochs = "-" if reached is None else str(reached)
    failed = sum("failed" in head for head in pair.heads)
    return [
        NETS[pair.net].title,
        OPTIMIZERS[pair.optimizer].title,
        ", ".join(f"{rate:g}" for rate in rates),
        str(len(pair.heads)) + (f", {failed} failed" if failed else ""),
        f"{loss[-1]:.3f}" if math.isfinite(loss[-1]) else "-",
        f"{_percent(accuracy[-1])} ({_percent(min(ends))} to {_percent(max(ends))})",
        against,
        epochs,
    ]


def _own_rates(pairs: Pairs) -> str:
    """What grafting costs or gives, where there are runs with own rates."""
    rows = []
    for (net, optimizer), own in pairs.items():
        grafted = pairs.get((net, optimizer.removesuffix("_own")))
        if not optimizer.endswith("_own") or grafted is None:
            continue
        cells = []
        for metric in (ACCURACY, LOSS):
            cells.append((grafted.median(metric)[-1], own.median(metric)[-1]))
        (accuracy, own_accuracy), (loss, own_loss) = cells
        title = f"{NETS[net].title}, {optimizer.removesuffix('_own').upper()}"
        rows.append([title, points(accuracy - own_accuracy), f"{loss - own_loss:+.3f}"])
    if not rows:
        return ""
    head = ["net, method", "accuracy, points", "training loss"]
    return "Grafting minus the method's own tuned rate, after the last epoch:\n\n" + table(
        head, rows
    )


def _tunings(folder: Path) -> str:
    rows = []
    for net in NETS:
        for optimizer in OPTIMIZERS:
            path = Place(folder, net, optimizer).tuning
            if not path.is_file() or not Place(folder, net, optimizer).chooses:
                continue
            content = json.loads(path.read_text(encoding="utf-8"))
            cells = []
            for item in content["candidates"]:
                value = "failed" if item["accuracy"] is None else _percent(item["accuracy"])
                mark = "**" if item["rate"] == content["rate"] else ""
                cells.append(f"{mark}{item['rate']:g}: {value}{mark}")
            rows.append([NETS[net].title, OPTIMIZERS[optimizer].title, "; ".join(cells)])
    if not rows:
        return ""
    text = "Rates that were tried, with the accuracy (%) on the held-out images; chosen in bold:"
    return f"{text}\n\n{table(['net', 'optimizer', 'candidates'], rows)}"


def _origin(pairs: Pairs) -> str:
    heads = [head for pair in pairs.values() for head in pair.heads]
    commits = sorted({head["commit"] for head in heads})
    versions = sorted(
        {", ".join(f"{k} {v}" for k, v in head["versions"].items()) for head in heads}
    )
    machines = sorted({head["machine"] for head in heads})
    return (
        f"Commit {', '.join(commits)}; {'; '.join(versions)}; {'; '.join(machines)}. "
        "The runs of a pair: "
        "`python benchmarks/drop_in.py --data_path D --nets NET --optimizers NAME`."
    )


def section(folder: Path) -> str:
    """What stands between the markers.

    Args:
        folder: Of the stored runs.

    Returns:
        Markdown, ending in a newline.
    """
    pairs = load(folder)
    if not pairs:
        return NOTHING + "\n"
    head = ["net", "optimizer", "rate", "seeds", "training loss", "test accuracy, %"]
    head += ["against Momentum, points", "epochs to Momentum's last"]
    rows = [_row(pair, pairs.get((pair.net, MOMENTUM))) for pair in pairs.values()]
    parts = [table(head, rows), _own_rates(pairs), _tunings(folder), _origin(pairs)]
    return "\n\n".join(part for part in parts if part) + "\n"


def draw(pairs: Pairs, path: Path) -> None:
    """Draw loss and accuracy against epochs, a column for each net.

    Args:
        pairs: What is stored.
        path: The PNG file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    nets = [net for net in NETS if any(name == net for name, _ in pairs)]
    figure = Figure(figsize=(2.0 + 3.6 * len(nets), 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(nets), sharex=True, squeeze=False)
    lines: dict[str, Any] = {}
    for column, net in enumerate(nets):
        for axes, metric, scale in zip(panels[:, column], (LOSS, ACCURACY), (1.0, 100.0)):
            for (name, optimizer), pair in pairs.items():
                if name == net:
                    lines[OPTIMIZERS[optimizer].title] = _curve(axes, pair, metric, scale)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(True, alpha=0.3, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0, column].set_title(NETS[net].title, fontsize=10)
        panels[1, column].set_xlabel("epoch")
    panels[0, 0].set_ylabel("training loss")
    panels[1, 0].set_ylabel("test accuracy (%)")
    figure.legend(lines.values(), lines.keys(), loc="outside right center", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    # No creation date or version: the same runs give the same file with the same matplotlib.
    figure.savefig(path, format="png", dpi=100, metadata={"Software": None})


def _curve(axes: Any, pair: Pair, metric: str, scale: float) -> Any:
    """The median over the seeds, and thinly the seeds; what is not finite is left out."""
    colour = _COLOURS[pair.optimizer.removesuffix("_own")]
    dashes = "--" if pair.optimizer.endswith("_own") else "-"

    def plot(curve: list[float], width: float, alpha: float) -> Any:
        ends = [(k, scale * y) for k, y in enumerate(curve, 1) if math.isfinite(y)]
        xs, ys = zip(*ends) if ends else ((), ())
        look = {"color": colour, "linestyle": dashes, "linewidth": width, "alpha": alpha}
        return axes.plot(xs, ys, **look)[0]

    for curve in pair.curves(metric):
        plot(curve, 0.7, 0.45)
    return plot(pair.median(metric), 1.9, 1.0)


def report(root: Path, folder: Path, *, check: bool) -> Path | None:
    """Bring page and picture up to date.

    Args:
        root: Folder that holds ``docs/``.
        folder: Of the stored runs.
        check: Whether to leave everything as it is.

    Returns:
        The page, where it is or was out of date.

    Raises:
        UserError: If the page has no markers.
    """
    page = root / PAGE
    text = page.read_text(encoding="utf-8")
    new = replaced(text, NAME, section(folder))
    if new is None:
        raise UserError(
            f"{page}: has no lines '<!-- results: {NAME} -->' and "
            f"'<!-- end of results: {NAME} -->'; add them where the results belong"
        )
    if not check:
        page.write_text(new, encoding="utf-8")
        pairs = load(folder)
        if pairs:
            draw(pairs, root / FIGURE)
    return page if new != text else None
