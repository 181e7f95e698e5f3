"""Which runs there are, which rate each has, and where they are stored.

``<net>-<optimizer>-seed<k>.jsonl`` holds a run, its origin in the first line and one row per epoch
behind; ``<net>-<optimizer>-tuning.json`` what the choice of a rate saw. A file is there when its
run is finished.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.dropin.script import BATCH, HELD_OUT, MOMENTUM, NETS, OPTIMIZERS, TEST, TRAIN
from benchmarks.harness.provenance import provenance
from mindspore_thor.cache.compile_cache import Choice
from mindspore_thor.files import write_file

EPOCHS = 5
TUNING_EPOCHS = 2
TUNING_SEED = 100
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Place:
    """Where a pair of net and optimizer is stored.

    Attributes:
        folder: The folder of all.
        net: A key of :data:`NETS`.
        optimizer: A key of :data:`OPTIMIZERS`.
    """

    folder: Path
    net: str
    optimizer: str

    def run(self, seed: int) -> Path:
        """The file of a run.

        Args:
            seed: Its seed.
        """
        return self.folder / f"{self.net}-{self.optimizer}-seed{seed}.jsonl"

    def stored(self) -> list[Path]:
        """The files of the runs that are there, by seed."""
        return [path for path in map(self.run, SEEDS) if path.is_file()]

    @property
    def chooser(self) -> str:
        """Whose choice the rate is: Momentum's, but for an optimizer with a rate of its own."""
        return self.optimizer if OPTIMIZERS[self.optimizer].own_rates else MOMENTUM

    @property
    def chooses(self) -> bool:
        """Whether the rate was chosen for this optimizer."""
        return self.chooser == self.optimizer

    @property
    def tuning(self) -> Path:
        """The file of the choice of the rate."""
        return self.folder / f"{self.net}-{self.chooser}-tuning.json"


def best(values: Sequence[float | None]) -> int:
    """The index of the largest value, the first of equals; None and NaN are the worst.

    Args:
        values: One for each candidate.
    """
    scores = [-math.inf if value is None or math.isnan(value) else float(value) for value in values]
    return scores.index(max(scores))


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = ("\n".join(lines) + "\n").encode()
    write_file(path, [content], len(content))


def tuned_rate(place: Place, data: Path, compile_cache: Choice = None) -> float:
    """The rate of a pair: stored, or chosen now with held-out images.

    Args:
        place: The pair.
        data: Folder of CIFAR-10.
        compile_cache: See :class:`~mindspore_thor.TrainStep`.

    Returns:
        The candidate with the best accuracy on held-out training images after a short run.
    """
    from benchmarks.dropin import script

    path = place.tuning
    if path.is_file():
        return float(json.loads(path.read_text(encoding="utf-8"))["rate"])
    net, line = NETS[place.net], OPTIMIZERS[place.chooser]
    images = script.read_images(data, tuning=True)
    rates = line.own_rates or net.rates
    found: list[float | None] = []
    for rate in rates:
        rows, failed = script.train(
            *(net.build, line.make, rate, TUNING_SEED, images, TUNING_EPOCHS, compile_cache)
        )
        accuracy = None if failed else rows[-1]["test_accuracy"]
        found.append(accuracy)
        print(
            f"{place.net}, {place.chooser}: rate {rate:g}: held-out accuracy {accuracy}", flush=True
        )
    content = {
        "rate": rates[best(found)],
        "candidates": [{"rate": rate, "accuracy": value} for rate, value in zip(rates, found)],
        **{"epochs": TUNING_EPOCHS, "seed": TUNING_SEED, "images": TRAIN, "held_out": HELD_OUT},
        **provenance(),
    }
    _write(path, [json.dumps(content, indent=1)])
    return float(content["rate"])


def run_pair(place: Place, data: Path, seeds: Sequence[int], compile_cache: Choice = None) -> None:
    """Do the runs of a net with an optimizer that are not stored.

    Args:
        place: The pair.
        data: Folder of CIFAR-10.
        seeds: Which runs.
        compile_cache: See :class:`~mindspore_thor.TrainStep`.
    """
    from benchmarks.dropin import script

    missing = [seed for seed in seeds if not place.run(seed).is_file()]
    if not missing:
        print(f"{place.net}, {place.optimizer}: nothing is missing", flush=True)
        return
    rate = tuned_rate(place, data, compile_cache)
    images = script.read_images(data, tuning=False)
    net, line = NETS[place.net], OPTIMIZERS[place.optimizer]
    for seed in missing:
        where = f"{place.net}, {place.optimizer}, rate {rate:g}, seed {seed}"

        def show(row: dict[str, float], where: str = where) -> None:
            accuracy = 100 * row["test_accuracy"]
            print(
                f"{where}: epoch {row['epoch']} of {EPOCHS}, loss {row['loss']:.4f}, "
                f"test accuracy {accuracy:.2f} %",
                flush=True,
            )

        rows, failed = script.train(
            *(net.build, line.make, rate, seed, images, EPOCHS, compile_cache, show)
        )
        head: dict[str, Any] = {"net": place.net, "optimizer": place.optimizer, "seed": seed}
        head |= {"rate": rate, "epochs": EPOCHS, "batch": BATCH, "images": TRAIN, "tests": TEST}
        if failed:
            head["failed"] = failed
        _write(place.run(seed), [json.dumps(item) for item in ({**head, **provenance()}, *rows)])
