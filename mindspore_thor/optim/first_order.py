"""What the first-order baselines share: the same weight-decay rule as the other methods."""

from __future__ import annotations

from typing import Any

from mindspore import Parameter, nn

from mindspore_thor.optim.base import default_decay_filter
from mindspore_thor.optim.checks import check_number


def decay_groups(net: nn.Cell, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups in which only parameters with two or more dimensions decay."""
    check_number("weight_decay", weight_decay, 0.0)
    trained = net.trainable_params()
    decayed: list[Parameter] = [p for p in trained if default_decay_filter(p)]
    rest = [p for p in trained if not default_decay_filter(p)]
    groups: list[dict[str, Any]] = []
    if decayed:
        groups.append({"params": decayed, "weight_decay": float(weight_decay)})
    if rest:
        groups.append({"params": rest, "weight_decay": 0.0})
    groups.append({"order_params": trained})
    return groups
