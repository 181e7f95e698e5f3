"""The first-order baselines, with the same weight-decay rule as the others."""

from __future__ import annotations

from typing import Any

from mindspore import Parameter, nn

from mindspore_thor.optim.adamw import AdamW
from mindspore_thor.optim.base import default_decay_filter
from mindspore_thor.optim.checks import (
    check_learning_rate,
    check_loss_scale,
    check_number,
    check_share_of_old,
)


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


def sgd(
    net: nn.Cell,
    learning_rate: Any,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    loss_scale: float = 1.0,
) -> nn.Optimizer:
    """SGD with momentum: v <- mu v + (g + wd w); w <- w - lr v (MindSpore's ``nn.Momentum``)."""
    check_share_of_old("momentum", momentum)
    check_loss_scale(loss_scale)
    check_learning_rate(learning_rate)
    return nn.Momentum(
        decay_groups(net, weight_decay),
        learning_rate,
        float(momentum),
        loss_scale=float(loss_scale),
        use_nesterov=nesterov,
    )


def adamw(
    net: nn.Cell,
    learning_rate: Any,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    loss_scale: float = 1.0,
) -> nn.Optimizer:
    """AdamW with bias correction and decoupled decay."""
    check_learning_rate(learning_rate)
    groups = decay_groups(net, weight_decay)
    return AdamW(groups, learning_rate, beta1, beta2, epsilon, loss_scale=loss_scale)
