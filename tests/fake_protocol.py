"""A small protocol of two workloads, for the tests of the harness."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmarks.harness.spec import Study, load_study

PROTOCOL: dict[str, Any] = {
    "trials": 2,
    "trial_seed": 9,
    "seeds": [1],
    "baselines": ["sgd", "adamw"],
    "methods": {
        name: {
            "settings": {"optimizer": {"name": optimizer}},
            "candidates": [{"learning_rate.peak": one}, {"learning_rate.peak": two, "length": 0.5}],
        }
        for name, optimizer, one, two in (
            ("sgd", "sgd", 0.25, 0.5),
            ("adamw", "adamw", 0.75, 0.125),
            ("thor", "thor", 0.375, 0.625),
        )
    },
}
WORKLOAD: dict[str, Any] = {
    "protocol": "../shared.yaml",
    "title": "A workload",
    "common": {
        "model": {"name": "mlp", "hidden": [4]},
        "data": {"name": "mnist", "batch_size": 10, "validation": 10},
        "learning_rate": {"schedule": "cosine", "peak": 0.1},
        "train": {"epochs": 4},
    },
}
Change = Callable[[dict[str, Any], dict[str, Any]], None]


def write_protocol(folder: Path, change: Change | None = None) -> list[Path]:
    """Write two workloads, one and two, and what they share, after ``change(shared, one)``."""
    shared, workload = copy.deepcopy(PROTOCOL), copy.deepcopy(WORKLOAD)
    second = copy.deepcopy(workload)
    second["common"]["data"]["name"] = "cifar10"
    if change is not None:
        change(shared, workload)
    (folder / "studies").mkdir(parents=True, exist_ok=True)
    (folder / "shared.yaml").write_text(yaml.safe_dump(shared, sort_keys=False))
    paths = [folder / "studies" / f"{name}.yaml" for name in ("one", "two")]
    for path, tree in zip(paths, (workload, second)):
        path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return paths


def write_trials(study: Study, folder: Path, curves: dict[str, list[list[float | None]]]) -> None:
    """Store what a tuning phase leaves behind."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {}
    for name, trials in curves.items():
        found = [
            {"settings": settings, "curve": curve, "value": None}
            for settings, curve in zip(study.methods[name].candidates, trials)
        ]
        stored[name] = {"chosen": 0, "candidates": found}
    (folder / "tuning.json").write_text(json.dumps(stored))


def write_step_time(folder: Path, seconds: dict[str, float], steps: int = 10) -> None:
    """Store step times, in seconds."""
    methods = {name: {"plain": value, "amortised": value} for name, value in seconds.items()}
    content = {"rounds": 3, "steps_per_epoch": steps, "methods": methods}
    (folder / "step_time.json").write_text(json.dumps(content))


def loaded(folder: Path, change: Change | None = None) -> list[Study]:
    """Write the protocol, see :func:`write_protocol`, and read its workloads."""
    return [load_study(path) for path in write_protocol(folder, change)]
