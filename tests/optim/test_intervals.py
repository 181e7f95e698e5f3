"""Update intervals: numbers, functions and milestones, for factors and inverses apart."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from oracle.nets import batches, mlp
from oracle.training import cross_entropy

from mindspore_thor import KFAC, THOR, TrainStep, UserError
from mindspore_thor.optim.intervals import Interval, milestones


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (3, [(0, 3)]),
        (np.int64(2), [(0, 2)]),
        ([(0, 1), (10, 5)], [(0, 1), (10, 5)]),
        ([[0, 2], [4, 8]], [(0, 2), (4, 8)]),
        # called where a refresh falls: 0, 1, 2 with interval 1, then every 500000 steps
        (lambda step: 1 if step < 3 else 500_000, [(0, 1), (3, 500_000)]),
    ],
)
def test_canonical_form(interval, expected) -> None:
    assert milestones("factor_interval", interval) == expected


@pytest.mark.parametrize(
    "interval",
    [
        0,
        -1,
        1.5,
        True,
        "3",
        None,
        [],
        [(1, 2)],
        [(0, 2), (0, 3)],
        [(0, 2), (5, 0)],
        [3, 4],
        lambda step: 0,
        lambda step: 2.0,
    ],
    # No addresses in the ids: every worker must collect the same ones.
    ids=lambda interval: "function" if callable(interval) else str(interval),
)
@pytest.mark.parametrize("name", ["factor_interval", "inverse_interval"])
def test_bad_intervals_are_refused_by_name(name, interval) -> None:
    with pytest.raises(UserError, match=name):
        THOR(nn.Dense(2, 2), 0.1, **{name: interval})


def test_interval_at_every_step() -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    cell = Interval("inverse_interval", [(0, 2), (5, 7), (9, 3)])
    got = [int(cell(Tensor(step, ms.int32)).asnumpy()) for step in range(12)]
    assert got == [2] * 5 + [7] * 4 + [3] * 3


def refreshes(make, steps: int) -> tuple[list[int], list[int]]:
    """Steps at which the factors and the inverses of a net's first layer changed."""
    net, x, labels = mlp()
    optimizer = make(net)
    step = TrainStep(net, cross_entropy(), optimizer)
    curvature = optimizer.curvatures[0]
    factors, inverses = [], []
    for k, (a, b) in enumerate(batches(x, labels, steps)):
        before = curvature.statistics.asnumpy().copy()
        count = int(curvature.counts.asnumpy()[0])
        step(Tensor(a), Tensor(b))
        if (curvature.statistics.asnumpy() != before).any():
            factors.append(k)
        if int(curvature.counts.asnumpy()[0]) > count:
            inverses.append(k)
    return factors, inverses


@pytest.mark.parametrize(
    ("factor", "inverse", "expected"),
    [
        # both at step 0; 3 is no multiple of 2: inverses of factors that are one step old
        (2, 3, ([0, 2, 4, 6, 8], [0, 3, 6, 9])),
        # inverses are also refreshed from factors that have not changed (steps 2 and 6)
        (lambda step: 1 + step, [(0, 1), (2, 4)], ([0, 1, 3, 7], [0, 1, 2, 6])),
    ],
    ids=["numbers", "function and milestones"],
)
def test_when_factors_and_inverses_change(factor, inverse, expected) -> None:
    def make(net):
        return KFAC(net, 0.01, factor_interval=factor, inverse_interval=inverse, method="inverse")

    assert refreshes(make, 10) == expected


def test_interval_longer_than_the_training_still_trains() -> None:
    """nn.thor trains zero steps when an epoch is shorter than its interval."""
    net, x, labels = mlp()
    step = TrainStep(
        net, cross_entropy(), THOR(net, 0.05, factor_interval=834, inverse_interval=834)
    )
    losses = [float(step(Tensor(x), Tensor(labels)).asnumpy()) for _ in range(5)]
    assert losses[-1] < 0.9 * losses[0]
