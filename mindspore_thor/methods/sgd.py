"""SGD with momentum, the baseline."""

from __future__ import annotations

from typing import Any

from mindspore import nn

from mindspore_thor.optim.checks import (
    check_learning_rate,
    check_loss_scale,
    check_share_of_old,
)
from mindspore_thor.optim.first_order import decay_groups


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
