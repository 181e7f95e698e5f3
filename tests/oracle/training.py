"""Training a MindSpore net and the oracle's copy of it side by side."""

from __future__ import annotations

from typing import Callable

import numpy as np
from mindspore import Tensor, nn

from oracle.bridge import largest_error, oracle_net
from oracle.optimizers import Base


def cross_entropy() -> nn.Cell:
    return nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")


def compare(
    net: nn.SequentialCell,
    data: list[tuple[np.ndarray, np.ndarray]],
    make_step: Callable[[nn.Cell], nn.Cell],
    make_oracle: Callable[..., Base],
) -> tuple[dict[str, float], Base, nn.Cell]:
    """Errors of the weights' change over ``data``, the oracle optimizer, the step."""
    oracle = make_oracle(oracle_net(net))
    before = oracle.net.weights()
    step = make_step(net)
    for x, labels in data:
        loss = float(step(Tensor(x), Tensor(labels)).asnumpy())
        expected = oracle.step(x, labels)
        assert abs(loss - expected) < 1e-4 * max(1.0, abs(expected))
    return largest_error(net, before, oracle.net.weights()), oracle, step
