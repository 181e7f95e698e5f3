"""Running train steps in tests: on a small problem, by another graph, beside the oracle."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Callable

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from oracle.nets import Problem, batches, mlp
from oracle.optimizers import Base
from oracle.training import compare, cross_entropy

from mindspore_thor import THOR, DynamicLossScale, TrainStep

INTERVALS = {"factor_interval": 2, "inverse_interval": 3}
STEPS = 7

# For a method with a KL clip: options of a step on the token net.
both_token_modes = pytest.mark.parametrize(
    "options",
    [{"damping": 0.3, "kl_clip": 0.01}, {"token_mode": "reduce"}],
    ids=["expand", "reduce"],
)

Batches = list[tuple[np.ndarray, np.ndarray]]


def problem(steps: int = STEPS) -> tuple[nn.Cell, Batches]:
    """A small net and a few batches for it."""
    net, x, labels = mlp()
    return net, batches(x, labels, steps)


def thor(net: nn.Cell, **options: Any) -> THOR:
    """THOR with a falling learning rate, in whose intervals steps of every kind occur."""
    return THOR(
        net,
        [0.1 * 0.9**k for k in range(20)],
        weight_decay=0.01,
        split_dim=4,
        **{**INTERVALS, **options},
    )


def weights(net: nn.Cell) -> list[np.ndarray]:
    return [p.asnumpy().copy() for p in net.get_parameters()]


def same(a: list[np.ndarray], b: list[np.ndarray], tolerance: float = 0.0) -> None:
    """Equal to the bit, or within ``tolerance`` of the largest entry."""
    assert len(a) == len(b)
    for x, y in zip(a, b):
        if tolerance:
            np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * np.abs(y).max())
        else:
            np.testing.assert_array_equal(x, y)


def train(step: nn.Cell, data: Iterable[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """The losses of one step per batch."""
    return [float(step(Tensor(x), Tensor(labels)).asnumpy()) for x, labels in data]


class Outer(nn.Cell):
    """Compiles ``TrainStep.construct`` into its own graph, as data sinking does."""

    def __init__(self, step: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.step = step

    def construct(self, x, labels):
        return self.step(x, labels)


class Float32Loss(nn.Cell):
    """Cross entropy of a net in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = cross_entropy()

    def construct(self, logits, labels):
        return self.loss(logits.astype(ms.float32), labels)


def data_for(problem: Problem, data: Batches | int | None) -> Batches:
    """The problem's own batch, that many others of its kind, or the given ones."""
    _, x, labels = problem
    if isinstance(data, int):
        return batches(x, labels, data)
    return data or [(x, labels)]


def run(
    optimizer: Callable[..., nn.Cell],
    oracle: Callable[..., Base],
    problem: Problem,
    data: Batches | int | None = None,
    **options: Any,
) -> tuple[dict[str, float], Any, Any]:
    """Optimizer and oracle side by side; ``options`` go to both, no momentum unless given.

    A loss scale goes to the optimizer or the step alone: it has to cancel.
    """
    scale = options.pop("loss_scale", 1.0)
    dynamic = scale if isinstance(scale, DynamicLossScale) else None
    fixed = 1.0 if dynamic else scale
    lr = options.pop("lr", 1.0)
    options.setdefault("momentum", 0.0)
    return compare(
        problem[0],
        data_for(problem, data),
        lambda n: TrainStep(
            n, cross_entropy(), optimizer(n, lr, loss_scale=fixed, **options), loss_scale=dynamic
        ),
        lambda o: oracle(o, lr=lr, **options),
    )


def assert_close(errors: dict[str, float], tolerance: float) -> None:
    bad = {name: error for name, error in errors.items() if not error < tolerance}
    assert not bad, bad
