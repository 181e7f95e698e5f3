"""The table in docs/results.md and the picture, made of the stored runs alone."""

from __future__ import annotations

import json
import math
import statistics
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
FIGURE = f"docs/figures/{NAME}.png"
NOTHING = "No runs are stored yet."

_WORST = {"loss": math.inf, "test_loss": math.inf, "test_accuracy": -math.inf}


@dataclass(frozen=True)
class Pair:
    """The stored runs of a net with an optimizer.

    Attributes:
        net: A key of :data:`NETS`.
        optimizer: A key of :data:`OPTIMIZERS`.
        heads: What is known of every run: seed, rate, commit, versions ...
        rows: Every run's rows, one per epoch.
    """

    net: str
    optimizer: str
    heads: list[dict[str, Any]]
    rows: list[list[dict[str, Any]]]

    def curves(self, metric: str) -> list[list[float]]:
        """Every run's values after each epoch.

        Args:
            metric: Its name.
        """
        return [metric_curve(rows, metric, _WORST[metric]) for rows in self.rows]

    def median(self, metric: str) -> list[float]:
        """The median over the runs after each epoch; what a run did not reach is the worst.

        Args:
            metric: Its name.
        """
        curves = self.curves(metric)
        epochs = max(head["epochs"] for head in self.heads)
        return median_curve([*curves, *([[_WORST[metric]] * epochs] * 0)], _WORST[metric])

    @property
    def diverged(self) -> int:
        """How many runs ended early."""
        return sum("failed" in head for head in self.heads)


def load(folder: Path) -> dict[tuple[str, str], Pair]:
    """Read what is stored.

    Args:
        folder: Of the stored runs.

    Returns:
        (net, optimizer) -> its runs by seed, in the order of nets and optimizers.
    """
    found: dict[tuple[str, str], Pair] = {}
    for net in NETS:
        for optimizer in OPTIMIZERS:
            heads, runs = [], []
            for path in sorted(folder.glob(Place(folder, net, optimizer).run(0).name.replace("0", "*"))):
                head, *rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
                heads.append(head)
                runs.append(rows)
            if heads:
                found[net, optimizer] = Pair(net, optimizer, heads, runs)
    return found
