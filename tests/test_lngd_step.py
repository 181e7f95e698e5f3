"""LNGD in training: resume, other training cells, failures, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor, nn
from oracle.bridge import randomise
from oracle.nets import batches, mlp
from oracle.training import cross_entropy

from mindspore_thor import LNGD, TrainStep, UserError
from mindspore_thor.errors import TrainingError
from mindspore_thor.optim import create_optimizer, optimizer_options

OPTIONS = {"mu": 1e-3, "factor_interval": 3, "inverse_interval": 2}


def small_net() -> tuple[nn.SequentialCell, np.ndarray, np.ndarray]:
    net = nn.SequentialCell(
        nn.Conv2d(2, 3, 3, pad_mode="pad", padding=1, has_bias=True),
        nn.ReLU(),
        nn.Conv2d(3, 2, 2, pad_mode="valid"),
        nn.Flatten(),
        nn.Dense(18, 3),
    )
    rng = np.random.default_rng(5)
    x = rng.standard_normal((8, 2, 4, 4)).astype(np.float32)
    return randomise(net, 5), x, rng.integers(0, 3, 8).astype(np.int32)


def train(step: nn.Cell, data) -> list[float]:
    return [float(step(Tensor(x), Tensor(labels)).asnumpy()) for x, labels in data]


class Outer(nn.Cell):
    """Compiles ``TrainStep.construct`` into its own graph, as data sinking does."""

    def __init__(self, step: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.step = step

    def construct(self, x, labels):
        return self.step(x, labels)


@pytest.mark.parametrize("way", ["one graph", "nn.TrainOneStepCell"])
def test_other_ways_to_run_it_give_the_same_weights(way) -> None:
    """Steps 0, 3 collect and 0, 2, 4 invert: together, apart, and neither; same samples."""
    net, x, labels = small_net()
    data = batches(x, labels, 6)
    train(TrainStep(net, cross_entropy(), LNGD(net, 0.05, **OPTIONS)), data)
    other = small_net()[0]
    optimizer = LNGD(other, 0.05, **OPTIONS)
    if way == "one graph":
        cell = Outer(TrainStep(other, cross_entropy(), optimizer))
    else:
        whole = nn.WithLossCell(other, cross_entropy())
        cell = nn.TrainOneStepCell(whole, optimizer).set_train()
    train(cell, data)
    start = small_net()[0]
    for a, b, c in zip(net.get_parameters(), other.get_parameters(), start.get_parameters()):
        assert np.abs(a.asnumpy() - c.asnumpy()).max() > 1e-2
        np.testing.assert_allclose(a.asnumpy(), b.asnumpy(), atol=2e-5, err_msg=a.name)


def test_resume_is_bitwise_exact_and_the_seed_matters() -> None:
    """After step 2 the state is copied: factors, inverses, and the samples to come."""

    def build(seed: int = 1) -> TrainStep:
        net = small_net()[0]
        options = {**OPTIONS, "weight_decay": 0.1, "seed": seed}
        return TrainStep(net, cross_entropy(), LNGD(net, 0.05, **options))

    data = batches(*small_net()[1:], 6)
    straight = build()
    train(straight, data[:2])
    saved = {name: p.asnumpy().copy() for name, p in straight.parameters_dict().items()}
    train(straight, data[2:])
    end = {name: p.asnumpy() for name, p in straight.parameters_dict().items()}
    for seed in (1, 2):
        resumed = build(seed)
        for name, p in resumed.parameters_dict().items():
            p.set_data(Tensor(saved[name]))
        train(resumed, data[2:])
        now = {name: p.asnumpy() for name, p in resumed.parameters_dict().items()}
        assert all((now[name] == end[name]).all() for name in end) == (seed == 1)


def test_inversions_that_fail_keep_the_last_good_one_then_stop_training() -> None:
    net, x, labels = mlp()
    optimizer = LNGD(net, 0.01, factor_interval=1000, max_failures=2, mu=0.1)
    step = TrainStep(net, cross_entropy(), optimizer)
    train(step, [(x, labels)])
    curvature = optimizer.curvatures[0]
    broken = curvature.statistics.asnumpy().copy()
    broken[0] = np.nan
    good = broken[curvature.end_factors : curvature.end].copy()
    curvature.statistics.set_data(Tensor(broken))
    assert np.isfinite(train(step, [(x, labels)])).all()
    now = curvature.statistics.asnumpy()[curvature.end_factors : curvature.end]
    np.testing.assert_array_equal(now, good)
    assert optimizer.failed_inversions == 1
    with pytest.raises(TrainingError, match="layer 0"):
        train(step, [(x, labels)])


def test_a_dead_layer_does_not_poison_the_step() -> None:
    """All of its ReLUs are off: no samples, no gradient, and no NaN anywhere."""
    net = nn.SequentialCell(nn.Dense(4, 3), nn.ReLU(), nn.Dense(3, 2))
    randomise(net, 1)
    net[0].bias.set_data(Tensor(np.full(3, -100, np.float32)))
    before = net[0].weight.asnumpy()
    rng = np.random.default_rng(0)
    x, labels = (
        rng.standard_normal((6, 4)).astype(np.float32),
        np.array([0, 1, 0, 1, 1, 1], np.int32),
    )
    step = TrainStep(net, cross_entropy(), LNGD(net, 0.1, mu=0.0))
    assert np.isfinite(train(step, [(x, labels)] * 3)).all()
    assert int(step.skipped.asnumpy()) == 0
    np.testing.assert_array_equal(net[0].weight.asnumpy(), before)
    for p in step.get_parameters():
        assert np.isfinite(p.asnumpy()).all(), p.name


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sampling": "uniform"}, "gaussian, analytic"),
        ({"gradients": "exact"}, "sampled, true"),
        ({"fisher": "none"}, "per_sample, batch"),
        ({"mu": -1.0}, "mu"),
        ({"nu1": 0.1, "nu2": 0.01}, "nu1"),
        ({"ema_old_weight": 1.0}, "ema_old_weight"),
        ({"inverse_interval": 0}, "inverse_interval"),
        ({"damping": 0.1}, "damping"),
        ({"token_mode": "expand"}, "token_mode"),
    ],
    ids=str,
)
def test_bad_options(options, match) -> None:
    with pytest.raises(UserError, match=match):
        create_optimizer("lngd", mlp()[0], 0.1, **options)


def test_options_of_the_registry() -> None:
    found = optimizer_options("lngd")
    assert found["mu"].default == 1e-3 and found["ema_old_weight"].default == 0.95
    assert {"factor_interval", "inverse_interval", "seed", "max_failures"} <= set(found)
    assert not {"damping", "token_mode", "kl_clip"} & set(found)
