"""AdamW (Loshchilov & Hutter 2019) as a graph-mode optimizer.

MindSpore 2.10's ``nn.AdamWeightDecay`` leaves the bias correction out, ``nn.Adam`` couples the
decay with the gradient, and ``experimental.optim.AdamW`` is no ``nn.Optimizer``; the baseline that
papers compare with is none of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindspore_thor.optim.adam import adam_direction, adam_settings, as_tuple, bias_corrections
from mindspore_thor.optim.checks import (
    check_learning_rate,
    check_loss_scale,
    check_share_of_old,
)
from mindspore_thor.optim.first_order import decay_groups


class AdamW(nn.Optimizer):
    """m, v <- moving averages of g, g^2; w <- w - lr (m^ / (sqrt(v^) + eps) + wd w).

    Args:
        params: parameters or parameter groups, as in ``nn.Optimizer``.
        learning_rate: number, list, or MindSpore schedule.
        beta1: weight of the old first moment, in [0, 1).
        beta2: weight of the old second moment, in [0, 1).
        epsilon: added to the root of the second moment.
        weight_decay: decoupled decay, not scaled by the gradient.
        loss_scale: the loss is multiplied by it before the backward pass.

    Raises:
        UserError: for a beta outside [0, 1) or an epsilon that is not positive.
    """

    label = "adamw"
    nesterov = False

    def __init__(
        self,
        params: Any,
        learning_rate: Any,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        loss_scale: float = 1.0,
    ) -> None:
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            check_share_of_old(name, value)
        check_loss_scale(loss_scale)
        super().__init__(learning_rate, params, weight_decay, loss_scale=1.0)
        self.loss_scale = float(loss_scale)
        self.inverse_scale = 1.0 / self.loss_scale
        self.weights = self._parameters
        settings = adam_settings((beta1, beta2), epsilon, nesterov=self.nesterov)
        self.settings = as_tuple(settings)
        self.first = self.weights.clone(prefix=f"{self.label}.first", init="zeros")
        self.second = self.weights.clone(prefix=f"{self.label}.second", init="zeros")

    def construct(self, gradients: Sequence[Tensor]) -> Tensor:
        """Update every parameter from its gradient."""
        lr = self.get_lr()
        decay = self.get_weight_decay()
        self.assignadd(self.global_step, self.global_step_increase_tensor)
        step = ops.cast(self.global_step.reshape(()), ms.float32)
        corrections = bias_corrections(self.settings, step)
        for i in range(len(self.weights)):
            gradient = gradients[i] * self.inverse_scale
            direction = adam_direction(
                self.settings, corrections, self.first[i], self.second[i], gradient
            )
            if self.decay_flags[i]:
                direction = direction + (decay[i] if self.is_group else decay) * self.weights[i]
            ops.assign_sub(self.weights[i], (lr[i] if self.is_group_lr else lr) * direction)
        return step


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
