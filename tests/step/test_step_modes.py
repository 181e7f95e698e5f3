"""Cells that the user put into evaluation mode stay in it while the rest trains."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn
from oracle.bridge import randomise
from oracle.training import cross_entropy

from mindspore_thor import THOR, TrainStep

RNG = np.random.default_rng(5)
X = Tensor(RNG.standard_normal((8, 6)).astype(np.float32))
LABELS = Tensor(RNG.integers(0, 3, 8).astype(np.int32))


def normed() -> nn.Cell:
    """Two BatchNorms, the second of which is the one that is frozen."""
    return randomise(
        nn.SequentialCell(
            nn.Dense(6, 5), nn.BatchNorm1d(5), nn.Dense(5, 4), nn.BatchNorm1d(4), nn.Dense(4, 3)
        ),
        1,
    )


def values(net: nn.Cell) -> list[np.ndarray]:
    return [p.asnumpy().copy() for p in net.get_parameters()]


def momentum(net: nn.Cell) -> nn.Optimizer:
    return nn.Momentum(net.trainable_params(), 0.1, 0.0)


def expected(*modes: bool | None) -> list[np.ndarray]:
    """MindSpore's own cell: a step for each mode of the second BatchNorm (None: of the whole).

    Everything is made anew for each step: a compiled graph keeps the modes it was compiled in, and
    graphs of MindSpore 2.10 that share parameters lose updates.
    """
    net = normed()
    for mode in modes:
        start, net = net, normed()
        for p, q in zip(net.get_parameters(), start.get_parameters()):
            p.set_data(Tensor(q.asnumpy()))
        step = nn.TrainOneStepCell(nn.WithLossCell(net, cross_entropy()), momentum(net))
        step.set_train(mode is not None)
        if mode is not None:
            net[3].set_train(mode)
        step(X, LABELS)
    return values(net)


def same(left: list[np.ndarray], right: list[np.ndarray]) -> None:
    for a, b in zip(left, right):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_what_is_frozen_before_the_step_is_made_stays_so() -> None:
    wanted = expected(False, False)
    for prepare in ("in training", "as made", "in a wrapper"):
        net = normed()
        if prepare == "in training":
            net.set_train()
        net[3].set_train(False)
        if prepare == "in a wrapper":
            step = TrainStep(nn.WithLossCell(net, cross_entropy()), None, momentum(net))
        else:
            step = TrainStep(net, cross_entropy(), momentum(net))
        step(X, LABELS)
        assert [cell.training for cell in net.cells()] == [True, True, True, False, True]
        net.set_train(False)  # an evaluation in between
        net(X)
        step(X, LABELS)
        same(values(net), wanted)


def test_freezing_and_thawing_between_steps() -> None:
    net = normed()
    step = TrainStep(net, cross_entropy(), momentum(net))
    for mode in (True, False, True, False):
        net[3].set_train(mode)
        step(X, LABELS)
    same(values(net), expected(True, False, True, False))
    assert len(step.whole.compile_cache) == 2, "one graph for each set of modes"


def test_an_evaluated_network_trains_as_a_new_one() -> None:
    wanted = expected(True)
    net = normed()
    net.set_train(False)
    step = TrainStep(nn.WithLossCell(net, cross_entropy()), None, momentum(net))
    step(X, LABELS)
    same(values(net), wanted)


def test_the_whole_step_in_evaluation_mode() -> None:
    """As MindSpore's cell, where somebody says so to the step itself; nothing else does."""
    net = normed()
    step = TrainStep(net, cross_entropy(), momentum(net))
    for mode in (True, False, True):
        step.set_train(mode)
        step(X, LABELS)
    same(values(net), expected(True, None, True))


def test_running_statistics_of_a_frozen_layer_do_not_move() -> None:
    """With every kind of graph that a second-order step has."""
    net = normed()
    net[3].set_train(False)
    step = TrainStep(net, cross_entropy(), THOR(net, 0.1, factor_interval=2, inverse_interval=2))
    before = [net[i].moving_mean.asnumpy().copy() for i in (1, 3)]
    for _ in range(3):
        step(X, LABELS)
    np.testing.assert_array_equal(net[3].moving_mean.asnumpy(), before[1])
    assert (net[1].moving_mean.asnumpy() != before[0]).all()
