"""A loss scale that changes while a net trains; that it cancels is in the tests of the methods."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from mindspore_thor import THOR, DynamicLossScale, TrainStep, UserError
from mindspore_thor.step.loss_scale import LossScale

X = Tensor(np.array([[1.0, 3.0], [2.0, 5.0]], np.float32))
RATE = 0.125


class Mean(nn.Cell):
    """A linear net in float16 that returns its mean loss: the weight's gradient is the mean row."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Dense(2, 1, weight_init="ones", has_bias=False).to_float(ms.float16)

    def construct(self, x: Tensor) -> Tensor:
        return self.dense(x).astype(ms.float32).mean()

    @property
    def now(self) -> np.ndarray:
        return self.dense.weight.asnumpy().ravel().copy()


def momentum(net: nn.Cell) -> nn.Optimizer:
    return nn.Momentum(net.trainable_params(), RATE, 0.0)


def thor(net: nn.Cell) -> nn.Optimizer:
    return THOR(net, RATE, momentum=0.0, factor_interval=1, inverse_interval=1)


@pytest.mark.parametrize("method", [momentum, thor])
def test_an_overflow_changes_no_weight_and_lowers_the_scale(method: Any) -> None:
    """The output gradients are scale / 2: float16 ends at 65504, between 2^19 and 2^11."""
    net = Mean()
    scale = DynamicLossScale(initial=2.0**20, factor=2.0**8, window=2)
    step = TrainStep(net, None, method(net), loss_scale=scale)
    scales, weights, skipped = [], [net.now], []
    for _ in range(4):
        step(X)
        scales.append(float(step.loss_scale.scale))
        weights.append(net.now)
        skipped.append(int(step.skipped))
    # A bad step, two good ones, which raise the scale too far, and so a bad one.
    assert scales == [2.0**12, 2.0**12, 2.0**20, 2.0**12]
    assert skipped == [1, 1, 1, 2]
    moved = [[1.0, 1.0], *weights[2:4]]
    for before, after in ((0, 1), (3, 4)):
        np.testing.assert_array_equal(weights[before], weights[after])
    if method is momentum:
        expected = 1.0 - RATE * np.arange(3)[:, None] * [1.5, 4.0]
    else:  # powers of two round nothing
        plain = Mean()
        step = TrainStep(plain, None, method(plain))
        expected = [plain.now]
        for _ in range(2):
            step(X)
            expected.append(plain.now)
        assert not np.array_equal(expected[1], expected[2])
    np.testing.assert_array_equal(moved, expected)


def test_the_scale_stays_within_its_bounds() -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    scale = LossScale(DynamicLossScale(initial=2.0, factor=4.0, window=1))
    scale.shrink()
    assert float(scale.scale) == 1.0 == float(scale.inverse)
    for _ in range(33):
        scale.grow()
    assert float(scale.scale) == 2.0**64
    assert float(scale.inverse) == 2.0**-64
    assert int(scale.good_steps) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"initial": 0.5}, "initial=0.5: give a loss scale between 1 and"),
        ({"initial": 2.0**65}, "give a loss scale between 1 and"),
        ({"factor": 1.0}, "factor=1: give a number above 1"),
        ({"window": 0}, "window=0"),
    ],
)
def test_wrong_settings(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        DynamicLossScale(**options)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("fixed", "dynamic", "words"),
    [
        (1.0, 1024.0, "loss_scale is 1024.0; give DynamicLossScale"),
        (8.0, DynamicLossScale(), "has loss_scale=8 and TrainStep a dynamic one"),
    ],
)
def test_wrong_choices(fixed: float, dynamic: Any, words: str) -> None:
    net = Mean()
    optimizer = nn.Momentum(net.trainable_params(), 0.1, 0.9, loss_scale=fixed)
    with pytest.raises(UserError) as error:
        TrainStep(net, None, optimizer, loss_scale=dynamic)
    assert words in str(error.value)
