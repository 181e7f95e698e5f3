"""Gradient accumulation: one update from micro-batches is that of the whole batch."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor, nn
from oracle.nets import batches, mlp, token_net
from oracle.training import cross_entropy

from mindspore_thor import EKFAC, FNGD, KFAC, LNGD, THOR, TrainStep, UserError
from mindspore_thor.optim import create_optimizer

INTERVALS = {"factor_interval": 2, "inverse_interval": 3}


def train(step: nn.Cell, data) -> list[float]:
    return [float(step(Tensor(x), Tensor(labels)).asnumpy()) for x, labels in data]


def split(data, count: int):
    return [
        (part, part_labels)
        for x, labels in data
        for part, part_labels in zip(np.split(x, count), np.split(labels, count))
    ]


def rates() -> list[float]:
    return [0.1 * 0.7**k for k in range(20)]


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        pytest.param(
            lambda n: THOR(n, rates(), loss_scale=8.0, **INTERVALS),
            lambda: token_net(batch=6),
            marks=pytest.mark.slow,
        ),
        (lambda n: KFAC(n, rates(), **INTERVALS), lambda: mlp(batch=6)),
        pytest.param(
            lambda n: create_optimizer("tkfac", n, rates(), **INTERVALS),
            lambda: mlp(batch=6),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda n: create_optimizer("eva", n, rates()),
            lambda: mlp(batch=6),
            marks=pytest.mark.slow,
        ),
        (lambda n: create_optimizer("shampoo", n, rates(), **INTERVALS), lambda: mlp(batch=6)),
        (lambda n: create_optimizer("adamw", n, rates()), lambda: mlp(batch=6)),
    ],
    ids=["thor", "kfac", "tkfac", "eva", "shampoo", "adamw"],
)
def test_micro_batches_update_like_the_whole_batch(make, problem) -> None:
    """Five updates with three micro-batches each: factors, intervals and schedules count updates.

    The token net has an Embedding and a LayerNorm, whose rules divide by the batch size.
    """
    net, x, labels = problem()
    data = batches(x, labels, 5)
    losses = train(TrainStep(net, cross_entropy(), make(net)), data)
    other = problem()[0]
    start = [p.asnumpy().copy() for p in other.trainable_params()]
    micro = train(TrainStep(other, cross_entropy(), make(other), accumulate=3), split(data, 3))
    np.testing.assert_allclose(np.reshape(micro, (5, 3)).mean(1), losses, rtol=2e-4)
    for a, b, c in zip(net.trainable_params(), other.trainable_params(), start):
        change = np.abs(a.asnumpy() - c).max()
        np.testing.assert_allclose(b.asnumpy(), a.asnumpy(), atol=1e-3 * change, err_msg=a.name)


def test_a_bad_micro_batch_costs_the_update_and_resume_is_exact_between_two() -> None:
    """The second update has a NaN in its first micro-batch; the state is copied right after it."""

    def build() -> TrainStep:
        net = nn.SequentialCell(*mlp(batch=6)[0], nn.BatchNorm1d(3))
        return TrainStep(net, cross_entropy(), KFAC(net, 0.1), accumulate=3)

    _, x, labels = mlp(batch=6)
    data = split(batches(x, labels, 3), 3)
    bad = data[3][0].copy()
    bad[0, 0] = np.nan
    data[3] = (bad, data[3][1])
    straight = build()
    train(straight, data[:3])
    names = [p.name for p in straight.net.get_parameters()]
    before = {p.name: p.asnumpy().copy() for p in straight.net.get_parameters()}
    train(straight, data[3:4])
    saved = {name: p.asnumpy().copy() for name, p in straight.parameters_dict().items()}
    train(straight, data[4:6])
    for p in straight.net.get_parameters():
        np.testing.assert_array_equal(p.asnumpy(), before[p.name], err_msg=p.name)
    assert int(straight.skipped.asnumpy()) == 1
    assert int(straight.optimizer.global_step.asnumpy()[0]) == 2
    train(straight, data[6:])
    resumed = build()
    for name, p in resumed.parameters_dict().items():
        p.set_data(Tensor(saved[name]))
    train(resumed, data[4:])
    moved = straight.parameters_dict()
    for name, p in resumed.parameters_dict().items():
        np.testing.assert_array_equal(p.asnumpy(), moved[name].asnumpy(), err_msg=name)
    assert any((moved[name].asnumpy() != before[name]).any() for name in names)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda n: FNGD(n, 0.1, share="none"), "FNGD cannot accumulate.*Gram"),
        (lambda n: LNGD(n, 0.1), "LNGD cannot accumulate.*sample"),
        (lambda n: EKFAC(n, 0.1), "EKFAC cannot accumulate.*second pass"),
    ],
    ids=["fngd", "lngd", "ekfac"],
)
def test_methods_that_need_the_whole_batch_say_so(make, match) -> None:
    net = mlp()[0]
    with pytest.raises(UserError, match=match):
        TrainStep(net, cross_entropy(), make(net), accumulate=2)


class Outer(nn.Cell):
    def __init__(self, step: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.step = step

    def construct(self, x, labels):
        return self.step(x, labels)


def test_what_else_is_refused() -> None:
    net, x, labels = mlp(batch=6)
    with pytest.raises(UserError, match="accumulate=0"):
        TrainStep(net, cross_entropy(), THOR(net, 0.1), accumulate=0)
    step = TrainStep(net, cross_entropy(), THOR(net, 0.1), accumulate=2)
    with pytest.raises(UserError, match="data sinking"):
        Outer(step)(Tensor(x), Tensor(labels))
    step(Tensor(x), Tensor(labels))
    with pytest.raises(UserError, match="3 samples after one of 6"):
        step(Tensor(x[:3]), Tensor(labels[:3]))
