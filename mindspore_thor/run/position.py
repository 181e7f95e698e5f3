"""The position of a training loop: what a checkpoint says of it, checked before it is believed."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

_LARGEST = 2**31 - 1
_SECTIONS = ("model", "data", "optimizer", "learning_rate", "damping", "train")


@dataclass
class Position:
    """Where the loop stands, and what it has reported so far.

    Attributes:
        epoch: Current epoch, from 1; 0 before the first.
        step: Finished updates of that epoch.
        steps_per_epoch: Batches per epoch of the data that is trained on.
        config: The resolved configuration, to compare on resume.
        metrics: One row per finished epoch, as in ``metrics.jsonl``.
        best_accuracy: Best value so far of the task's first metric, or None. That is an accuracy
            or an error; the name is the one that stands in the checkpoints.
        loss_sum: Sum of the finite losses of the current epoch.
        loss_count: Number of them.
        epoch_seconds: Time spent in the current epoch so far.
        wall_clock: Seconds since the training began, pauses excluded.
    """

    epoch: int = 0
    step: int = 0
    steps_per_epoch: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    best_accuracy: float | None = None
    loss_sum: float = 0.0
    loss_count: int = 0
    epoch_seconds: float = 0.0
    wall_clock: float = 0.0


def parse_position(text: str) -> Position:
    """Read a position; every value in it has the right type and range.

    Args:
        text: JSON, as ``json.dumps(dataclasses.asdict(position))`` makes it.

    Returns:
        The position.

    Raises:
        ValueError: Naming what is wrong.
    """
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("its position cannot be read") from None
    names = {item.name for item in dataclasses.fields(Position)}
    if not isinstance(tree, dict) or tree.keys() != names:
        raise ValueError("its position has another layout; the release that wrote it can read it")
    for name in ("epoch", "step", "steps_per_epoch", "loss_count"):
        _check(_is_count(tree[name]), name)
    for name in ("epoch_seconds", "wall_clock"):
        _check(_is_number(tree[name]) and tree[name] >= 0, name)
    _check(_is_number(tree["loss_sum"]), "loss_sum")
    _check(tree["best_accuracy"] is None or _is_number(tree["best_accuracy"]), "best_accuracy")
    config = tree["config"]
    _check(isinstance(config, dict), "config")
    for name in config:
        good = isinstance(config[name], dict) or (name == "damping" and config[name] is None)
        _check(name in _SECTIONS and good, "config")
    _check(isinstance(tree["metrics"], list), "metrics")
    for row in tree["metrics"]:
        _check(isinstance(row, dict) and _is_count(row.get("epoch")), "metrics")
        # A metric that is not a number is a result like any other.
        _check(all(value is None or _is_real(value) for value in row.values()), "metrics")
    return Position(**tree)


def check_position(position: Position, steps_per_epoch: int) -> None:
    """Check that the parts of a position fit each other and the data.

    Args:
        position: From :func:`parse_position`.
        steps_per_epoch: Batches per epoch of the data, those of the position.

    Raises:
        ValueError: Naming what does not fit.
    """
    epoch, step, rows = position.epoch, position.step, position.metrics
    _check(step <= steps_per_epoch and (epoch > 0 or step == 0), "step")
    _check([row["epoch"] for row in rows] == list(range(1, len(rows) + 1)), "metrics")
    # The row of the current epoch is written after its last update.
    finished = epoch if step == steps_per_epoch else epoch - 1
    _check(len(rows) in (epoch, epoch - 1) and (not rows or len(rows) <= finished), "metrics")
    for row in rows:
        _check(_is_number(row.get("wall_clock")) and row["wall_clock"] >= 0, "metrics")
        _check({"step", "loss", "skipped"} <= row.keys(), "metrics")


def _check(good: bool, name: str) -> None:
    if not good:
        raise ValueError(f"the {name} of its position is wrong")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _is_real(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isinstance(value, float) or abs(value) <= 2**63


def _is_number(value: Any) -> bool:
    return _is_real(value) and math.isfinite(value)
