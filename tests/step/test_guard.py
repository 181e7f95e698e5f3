"""Bad batches leave no trace, and a factor that cannot be inverted keeps the last good inverse."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from oracle.bridge import TokenMean, randomise
from oracle.nets import token_net
from oracle.training import cross_entropy
from steps import Outer, problem, same, thor, train, weights

from mindspore_thor import KFAC, THOR, TrainStep
from mindspore_thor.errors import TrainingError

# -- a loss that is not finite ---------------------------------------------------------------------


def normed() -> tuple[nn.Cell, list[tuple[np.ndarray, np.ndarray]]]:
    net = nn.SequentialCell(
        nn.Conv2d(2, 3, 3, pad_mode="pad", padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dense(48, 3),
    )
    rng = np.random.default_rng(5)
    data = [
        (
            rng.standard_normal((6, 2, 4, 4)).astype(np.float32),
            rng.integers(0, 3, 6).astype(np.int32),
        )
        for _ in range(4)
    ]
    return randomise(net, 5), data


def spoil(batch):
    x = batch[0].copy()
    x[1, 0, 2, 2] = np.nan
    return x, batch[1]


MAKERS = {
    "thor": lambda net: THOR(net, 0.1, weight_decay=0.01),
    "kfac": lambda net: KFAC(net, 0.1, method="inverse"),
    "momentum": lambda net: nn.Momentum(net.trainable_params(), 0.1, 0.9),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_bad_batch_leaves_no_trace(name) -> None:
    """good, bad, bad, good == good, good: weights, BatchNorm statistics, momentum, factors, all."""
    net, data = normed()
    step = TrainStep(net, cross_entropy(), MAKERS[name](net))
    start = {k: p.asnumpy().copy() for k, p in step.parameters_dict().items()}
    states = []
    for bad in (False, True):
        for k, p in step.parameters_dict().items():
            ops.assign(p, Tensor(start[k]))  # set_data would detach it from the compiled graphs
        train(step, [data[0]])
        if bad:
            train(step, [spoil(data[1]), spoil(data[2])])
            assert int(step.skipped.asnumpy()) == int(step.skipped_in_a_row.asnumpy()) == 2
        train(step, [data[3]])
        assert int(step.skipped_in_a_row.asnumpy()) == 0
        assert int(step.skipped.asnumpy()) == 2 * bad
        states.append({k: p.asnumpy().copy() for k, p in step.parameters_dict().items()})
    clean, spoilt = states
    assert any("moving_mean" in k for k in clean)
    for key, value in clean.items():
        if not key.endswith(("global_step", "skipped", "next_factor", "next_inverse")):
            np.testing.assert_array_equal(value, spoilt[key], err_msg=key)
        if "moving" in key:
            assert (value != start[key]).any()
    assert int(spoilt["global_step"][0]) == 4, "a skipped step counts for the schedules"


def test_a_bad_first_batch_after_loading_a_checkpoint() -> None:
    """The statistics to go back to are those loaded after the step was built."""
    net, data = normed()
    step = TrainStep(net, cross_entropy(), THOR(net, 0.1))
    loaded = {p.name: np.full(p.shape, 0.5, np.float32) for p in net.get_parameters()}
    ms.load_param_into_net(net, {k: ms.Parameter(Tensor(v), name=k) for k, v in loaded.items()})
    train(step, [spoil(data[0])])
    for p in net.get_parameters():
        np.testing.assert_array_equal(p.asnumpy(), loaded[p.name], err_msg=p.name)


def test_a_bad_batch_inside_an_interval_is_the_same_on_both_paths() -> None:
    """Steps 0, 2, 4 collect and all refresh: bad at steps 1 and 4."""
    results = []
    for wrap in (lambda step: step, Outer):
        net, data = problem()
        options = {
            "factor_interval": 2,
            "inverse_interval": 1,
            "damping": nn.ExponentialDecayLR(0.3, 0.5, 1),
        }
        step = TrainStep(net, cross_entropy(), thor(net, **options))
        for position in (1, 4):
            data[position] = spoil_rows(data[position])
        train(wrap(step), data)
        assert int(step.skipped.asnumpy()) == 2
        results.append(weights(net) + [c.counts.asnumpy() for c in step.optimizer.curvatures])
    same(*results, 1e-5)


def spoil_rows(batch):
    x = batch[0].copy()
    x[0, 0] = np.inf
    return x, batch[1]


# -- a factor that cannot be inverted --------------------------------------------------------------

METHODS = {
    "thor": lambda net: THOR(
        net, 0.01, damping=0.25, factor_interval=1000, max_failures=3, trace_thresholds=(0, 0)
    ),
    "kfac inverse": lambda net: KFAC(
        net,
        0.01,
        damping=0.25,
        factor_interval=1000,
        max_failures=3,
        method="inverse",
        damping_mode="sqrt",
    ),
    "kfac eigen": lambda net: KFAC(net, 0.01, damping=0.25, factor_interval=1000, max_failures=3),
}
DERIVED = ("inverse_a", "inverse_g", "vectors_a", "vectors_g", "values_a", "values_g")


def derived(curvature: nn.Cell) -> list[np.ndarray]:
    return [
        getattr(curvature, name).asnumpy().copy() for name in DERIVED if hasattr(curvature, name)
    ]


@pytest.mark.parametrize("name", METHODS)
def test_a_factor_that_cannot_be_inverted_keeps_the_last_good_inverse(name) -> None:
    net, data = problem(5)
    optimizer = METHODS[name](net)
    step = TrainStep(net, cross_entropy(), optimizer)
    train(step, data[:1])
    first, second = optimizer.curvatures
    good, other = derived(first), second.counts.asnumpy()[0]
    assert optimizer.failed_inversions == 0
    broken = first.statistics.asnumpy().copy()
    sound = broken.copy()
    broken[0] = np.nan
    first.statistics.set_data(Tensor(broken))
    before = weights(net)
    losses = train(step, data[1:3])  # two failed refreshes: training goes on
    assert np.isfinite(losses).all()
    assert any((a != b).any() for a, b in zip(before, weights(net)))
    same(derived(first), good)
    assert optimizer.failed_inversions >= 2
    if name != "thor":  # THOR keeps the second layer, whose factors did not change
        assert second.counts.asnumpy()[0] == other + 2
    # A sound factor ends the row; then three in a row are an error that names the layer.
    first.statistics.set_data(Tensor(sound * np.float32(1.5)))
    train(step, data[3:4])
    assert any((a != b).any() for a, b in zip(derived(first), good))
    first.statistics.set_data(Tensor(broken))
    train(step, data[:2])
    with pytest.raises(TrainingError, match="layer 0") as caught:
        train(step, data[2:3])
    assert "damping" in str(caught.value)


@pytest.mark.parametrize("wrap", [lambda step: step, Outer], ids=["phases", "one graph"])
def test_a_singular_factor_is_tried_again_with_more_damping(wrap) -> None:
    """A + sqrt(lam) I = 0 exactly; with ten times lam it is (sqrt(10 lam) - sqrt(lam)) I."""
    net, data = problem(2)
    optimizer = METHODS["kfac inverse"](net)
    step = wrap(TrainStep(net, cross_entropy(), optimizer))
    train(step, data[:1])
    curvature = optimizer.curvatures[0]
    statistics = curvature.statistics.asnumpy().copy()
    statistics[:36] = -0.5 * np.eye(6, dtype=np.float32).ravel()
    curvature.statistics.set_data(Tensor(statistics))
    train(step, data[1:])
    np.testing.assert_allclose(
        curvature.inverse_a.asnumpy()[0, 0], np.eye(6) / (np.sqrt(2.5) - 0.5), rtol=1e-5, atol=1e-6
    )
    assert optimizer.failed_inversions == 0


def test_embedding_factor_that_cannot_be_inverted() -> None:
    _, ids, labels = token_net()
    net = randomise(nn.SequentialCell(nn.Embedding(11, 6), TokenMean(), nn.Dense(6, 4)), 2)
    optimizer = THOR(net, 0.01, factor_interval=1000, max_failures=2)
    step = TrainStep(net, cross_entropy(), optimizer)
    train(step, [(ids, labels)])
    curvature = optimizer.curvatures[0]
    broken = curvature.statistics.asnumpy().copy()
    broken[-5] = np.inf
    curvature.statistics.set_data(Tensor(broken))
    good = curvature.inverse_g.asnumpy().copy()
    train(step, [(ids, labels)])
    np.testing.assert_array_equal(curvature.inverse_g.asnumpy(), good)
    with pytest.raises(TrainingError, match="layer 0"):
        train(step, [(ids, labels)])
