"""Gradient accumulation: one update from micro-batches is that of the whole batch."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor, nn
from oracle.baselines import Eva, Shampoo, Tkfac
from oracle.bridge import largest_error, oracle_net
from oracle.nets import Problem, batches, mlp, token_net
from oracle.optimizers import AdamW, Kfac, Thor
from oracle.rivals import Muon, Soap
from oracle.training import cross_entropy
from steps import INTERVALS, Outer, assert_close, train

from mindspore_thor import EKFAC, FNGD, KFAC, LNGD, THOR, TrainStep, UserError
from mindspore_thor.optim import create_optimizer


def split(data, count: int):
    return [
        (part, part_labels)
        for x, labels in data
        for part, part_labels in zip(np.split(x, count), np.split(labels, count))
    ]


def rates() -> list[float]:
    return [0.1 * 0.7**k for k in range(20)]


def alike() -> Problem:
    """Two layers of one shape, which are one group: half the graph of two shapes."""
    return mlp(batch=6, sizes=(5, 5, 5))


REST = {"rest_learning_rate": 0.01, "rest_epsilon": 1e-3}
TURNS = {"inverse_interval": 2, "epsilon": 1e-3}
# Every method with its oracle; epsilon of AdamW is large enough for float32 gradients.
CASES = {
    "thor": (Thor, {**INTERVALS, "momentum": 0.9}, lambda: token_net(batch=6)),
    "kfac": (Kfac, {**INTERVALS, "momentum": 0.9}, alike),
    "tkfac": (Tkfac, {**INTERVALS, "momentum": 0.9}, alike),
    "eva": (Eva, {"momentum": 0.9}, alike),
    "shampoo": (Shampoo, {**INTERVALS, "momentum": 0.9}, alike),
    "muon": (Muon, REST, lambda: mlp(batch=6)),
    # Only sides whose eigenvectors are unique have a basis.
    "soap": (Soap, {**REST, "max_preconditioner_dim": 5, **TURNS}, lambda: mlp(batch=6)),
    "adamw": (AdamW, {}, lambda: mlp(batch=6)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_micro_batches_update_like_the_whole_batch(name) -> None:
    """Five updates with three micro-batches each: factors, intervals and schedules count updates.

    The oracle takes the whole batches. The token net has an Embedding and a LayerNorm, whose rules
    divide by the batch size; a loss scale cancels.
    """
    oracle_of, options, problem = CASES[name]
    net, x, labels = problem()
    data = batches(x, labels, 5)
    start = {p.name: p.asnumpy().astype(np.float64) for p in net.trainable_params()}
    epsilon = {"epsilon": 1e-3} if name == "adamw" else {}
    damping = {"damping": 1e-3} if name == "adamw" else {}
    oracle = oracle_of(oracle_net(net), lr=rates(), **damping, **options)
    losses = [oracle.step(*batch) for batch in data]
    optimizer = create_optimizer(name, net, rates(), loss_scale=8.0, **epsilon, **options)
    micro = train(TrainStep(net, cross_entropy(), optimizer, accumulate=3), split(data, 3))
    np.testing.assert_allclose(np.reshape(micro, (5, 3)).mean(1), losses, rtol=2e-4)
    assert_close(largest_error(net, start, oracle.net.weights()), 1e-3)


def test_a_bad_micro_batch_costs_the_update_and_resume_is_exact_between_two() -> None:
    """The second update has a NaN in its first micro-batch; the state is copied right after it."""

    def build() -> TrainStep:
        net = nn.SequentialCell(*alike()[0], nn.BatchNorm1d(5))
        return TrainStep(net, cross_entropy(), KFAC(net, 0.1), accumulate=3)

    _, x, labels = alike()
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
