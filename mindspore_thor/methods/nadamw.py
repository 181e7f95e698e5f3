"""NAdamW: AdamW with Nesterov's momentum (Dozat 2016), AlgoPerf's baseline."""

from __future__ import annotations

from typing import Any

from mindspore import nn

from mindspore_thor.methods.adamw import AdamW
from mindspore_thor.optim.checks import check_learning_rate
from mindspore_thor.optim.first_order import decay_groups


class NAdamW(AdamW):
    """AdamW with b1 m^ + (1 - b1) g / (1 - b1^t) in place of m^.

    That is Dozat's Nesterov momentum with a constant b1; the decay is decoupled (Loshchilov &
    Hutter 2019). Arguments, state and errors are those of
    :class:`~mindspore_thor.methods.adamw.AdamW`.
    """

    label = "nadamw"
    nesterov = True


def nadamw(
    net: nn.Cell,
    learning_rate: Any,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    loss_scale: float = 1.0,
) -> nn.Optimizer:
    """NAdamW with bias correction and decoupled decay; arguments and errors as ``adamw``."""
    check_learning_rate(learning_rate)
    groups = decay_groups(net, weight_decay)
    return NAdamW(groups, learning_rate, beta1, beta2, epsilon, loss_scale=loss_scale)
