"""THOR's statistics and updates against the float64 oracle of tests/oracle."""

from __future__ import annotations

from functools import partial

import mindspore as ms
import numpy as np
import pytest
import steps
from mindspore import nn
from oracle import curvature as c
from oracle.bridge import oracle_net, randomise
from oracle.nets import ODD, batches, conv_net, mlp, small_conv_net, token_net
from oracle.optimizers import Thor
from oracle.training import compare, cross_entropy

from mindspore_thor import KFAC, THOR, TrainStep

# float32 against float64, relative to the largest entry of a parameter's change.
TOLERANCE = 1e-5


run = partial(steps.run, THOR, Thor)


def assert_close(errors: dict[str, float], tolerance: float = TOLERANCE) -> None:
    steps.assert_close(errors, tolerance)


def assert_factors(oracle: Thor, step: TrainStep) -> None:
    """The stored factors are means over samples and positions of per-sample outer products."""
    layers = [layer for layer in oracle.net.layers if hasattr(layer, "ds")]
    matrices = [k for k in step.optimizer.curvatures if k.captures]
    assert len(layers) == len(matrices) == 6
    for layer, curvature in zip(layers, matrices):
        a, g, t = oracle.states[id(layer)].fresh
        np.testing.assert_allclose(
            curvature.factor_a().asnumpy()[:, 0], a, atol=TOLERANCE * np.abs(a).max()
        )
        np.testing.assert_allclose(
            curvature.factor_g().asnumpy()[:, 0], g, atol=TOLERANCE * np.abs(g).max()
        )
        assert float(curvature.positions().asnumpy()) == t


@pytest.mark.slow
def test_one_step_on_every_convolution() -> None:
    errors, oracle, step = run(conv_net(), damping_mode="sqrt", split_dim=128)
    assert len(errors) == 11
    assert_close(errors)
    assert_factors(oracle, step)


def test_ragged_blocks_of_a_convolution() -> None:
    errors, _, _ = run(small_conv_net(), damping_mode="pi", split_dim=7, damping=0.1)
    assert_close(errors)


@pytest.mark.parametrize(
    ("activation", "options"),
    [
        ("relu", {"split_dim": 4, "damping_mode": "paper"}),
        # 1024 is a power of two: scaled runs are exact up to the squares in the factors.
        (
            "leakyrelu",
            {"split_dim": None, "damping_mode": "pi", "loss_scale": 1024.0, "weight_decay": 0.1},
        ),
        ("leakyrelu", {"split_dim": 4, "token_mode": "reduce"}),
    ],
    ids=["paper split 4", "pi whole, loss scale", "a sentence is one row"],
)
def test_one_step_on_tokens(activation, options) -> None:
    """The activation that a Dense layer was made with is kept; a loss scale cancels."""
    errors, _, _ = run(token_net(activation=activation), **options)
    assert_close(errors)


def schedule(start: float, factor: float):
    """The same geometric schedule for MindSpore and for the oracle."""
    return nn.ExponentialDecayLR(start, factor, 1), lambda step: start * factor**step


@pytest.mark.slow
def test_five_steps_with_everything_changing() -> None:
    """Momentum, weight decay, decaying damping and learning rate, uneven intervals, trace rule.

    The loss scale cancels in plain steps and in those that collect.
    """
    net, x, labels = small_conv_net()
    lr, lr_now = schedule(0.03, 0.8)
    damping, damping_now = schedule(0.1, 0.9)
    shared = {
        "momentum": 0.9,
        "weight_decay": 0.05,
        "split_dim": 6,
        "factor_interval": 2,
        "inverse_interval": [(0, 1), (1, 2)],
        "trace_thresholds": (0.3, 0.0),
    }
    errors, oracle, step = compare(
        net,
        batches(x, labels, 6),
        lambda n: TrainStep(
            n, cross_entropy(), THOR(n, lr, damping=damping, loss_scale=256.0, **shared)
        ),
        lambda o: Thor(o, lr=lr_now, damping=damping_now, **shared),
    )
    assert_close(errors, 1e-4)  # rounding of one step moves the next one's gradient
    counts = {(s.accepted, s.kept) for s in oracle.states.values() if s.accepted}
    assert len(counts) > 1, "the thresholds are meant to split the layers"
    report = {
        row.layer: (row.accepted, row.kept) for row in step.optimizer.layer_report() if row.covered
    }
    for i, layer in enumerate(oracle.net.layers):
        state = oracle.states[id(layer)]
        if hasattr(layer, "ds"):
            assert report[str(i)] == (state.accepted, state.kept)


def test_stale_inverse_keeps_the_damping_it_was_made_with() -> None:
    """One set of factors, one inverse, but a damping that falls by half every step.

    One bias alone decays: what the filter chooses.
    """
    net, x, labels = mlp(sizes=ODD)
    names = [p.name for p in net.trainable_params()]
    decay = {"weight_decay": 0.5, "decay_filter": lambda p: p.name == "1.bias"}
    decays = {n: 0.5 if n == "1.bias" else 0.0 for n in names}
    damping, now = schedule(0.4, 0.5)
    shared = {"factor_interval": 10, "inverse_interval": 10, "split_dim": 4, "momentum": 0.0}
    errors, _, step = compare(
        net,
        batches(x, labels, 3),
        lambda n: TrainStep(n, cross_entropy(), THOR(n, 0.1, damping=damping, **decay, **shared)),
        lambda o: Thor(o, lr=0.1, damping=now, decays=decays, **shared),
    )
    assert_close(errors)
    assert [row.accepted for row in step.optimizer.layer_report()] == [1, 1]


def test_learning_rate_as_a_list_and_clip_norm_bounds_the_direction() -> None:
    problem, rates = mlp(), [0.1, 0.0, 0.3]
    errors, oracle, _ = run(problem, 3, lr=rates, momentum=0.5, clip_norm=0.25)
    assert_close(errors)
    assert any(np.linalg.norm(v) > 0 for v in oracle.velocity.values())
    free = Thor(oracle.net)
    free.step(*problem[1:])
    assert np.sqrt(sum((v**2).sum() for v in free.velocity.values())) > 0.25, "the bound must bite"


def test_parameter_groups_have_their_own_rate_and_decay() -> None:
    net, x, labels = mlp()
    weights = [p for p in net.trainable_params() if "weight" in p.name]
    biases = [p for p in net.trainable_params() if "bias" in p.name]
    groups = [
        {"params": biases, "lr": 0.3, "weight_decay": 0.2},
        {"params": weights, "weight_decay": 0.01},
        {"order_params": net.trainable_params()},
    ]
    names = [p.name for p in net.trainable_params()]
    rates = {n: 0.3 if "bias" in n else 0.05 for n in names}
    decays = {n: 0.2 if "bias" in n else 0.01 for n in names}
    errors, _, _ = compare(
        net,
        batches(x, labels, 3),
        lambda n: TrainStep(n, cross_entropy(), THOR(n, 0.05, params=groups, split_dim=4)),
        lambda o: Thor(o, rates=rates, decays=decays, split_dim=4, momentum=0.9),
    )
    assert_close(errors)


def test_groups_in_another_order_than_the_net() -> None:
    """Without order_params the optimizer's order is the groups', not the net's."""
    net, x, labels = mlp()
    groups = [
        {"params": [p for p in net.trainable_params() if "bias" in p.name], "lr": 0.3},
        {"params": [p for p in net.trainable_params() if "weight" in p.name]},
    ]
    rates = {p.name: 0.3 if "bias" in p.name else 0.05 for p in net.trainable_params()}
    errors, _, _ = compare(
        net,
        batches(x, labels, 2),
        lambda n: TrainStep(n, cross_entropy(), THOR(n, 0.05, params=groups, weight_decay=0.1)),
        lambda o: Thor(o, rates=rates, decays=dict.fromkeys(rates, 0.1), momentum=0.9),
    )
    assert_close(errors)


# -- the checks T1-T4 and T8 of methods.md, section 5 (T4's states are in test_trace_rule.py) ------


def change(problem, optimizer) -> dict[str, np.ndarray]:
    net, x, labels = problem
    before = {p.name: p.asnumpy().copy() for p in net.trainable_params()}
    TrainStep(net, cross_entropy(), optimizer(net))(ms.Tensor(x), ms.Tensor(labels))
    return {p.name: before[p.name] - p.asnumpy() for p in net.trainable_params()}


def test_t1_a_split_as_large_as_the_layer_is_kfac() -> None:
    """T1, on layers without bias: KFAC's homogeneous column would make another matrix."""
    whole = change(_unbiased(), lambda n: THOR(n, 1.0, momentum=0.0, split_dim=9))
    kfac = change(
        _unbiased(),
        lambda n: KFAC(n, 1.0, momentum=0.0, kl_clip=None, method="inverse", damping_mode="sqrt"),
    )
    for name, v in whole.items():
        np.testing.assert_allclose(kfac[name], v, atol=1e-5 * np.abs(v).max())


def _unbiased():
    _, x, labels = mlp(sizes=ODD)
    return (
        randomise(
            nn.SequentialCell(nn.Dense(5, 9, has_bias=False), nn.Dense(9, 3, has_bias=False)), 4
        ),
        x,
        labels,
    )


def test_t2_split_of_one_divides_by_the_diagonals() -> None:
    """T2: V_ij = D_ij / ((G_ii + l)(A_jj + l)), l = sqrt(lam) for a Dense layer."""
    net, x, labels = mlp()
    oracle = oracle_net(net)
    oracle.loss(x, labels)
    moved = change(
        (net, x, labels), lambda n: THOR(n, 1.0, momentum=0.0, split_dim=1, damping=0.09)
    )
    for i, layer in enumerate(oracle.layers):
        a, g, _ = c.factors(layer)
        v = layer.d["weight"] / np.outer(np.diag(g[0]) + 0.3, np.diag(a[0]) + 0.3)
        np.testing.assert_allclose(moved[f"{i}.weight"], v, atol=1e-5 * np.abs(v).max())


def test_t3_ragged_last_block_equals_identity_padding() -> None:
    """T3: by hand, factors padded by the identity to a multiple of the split and sliced back."""
    net, x, labels = mlp()
    oracle = oracle_net(net)
    oracle.loss(x, labels)
    split, root = 3, np.sqrt(0.03)

    def padded_inverse(m: np.ndarray) -> np.ndarray:
        d = len(m)
        full = np.eye(-(-d // split) * split)
        full[:d, :d] = m
        for start in range(0, len(full), split):
            s = slice(start, start + split)
            block = np.linalg.inv(full[s, s] + root * np.eye(split))
            full[s, :] = 0
            full[s, s] = block
        return full[:d, :d]

    moved = change((net, x, labels), lambda n: THOR(n, 1.0, momentum=0.0, split_dim=split))
    for i, layer in enumerate(oracle.layers):
        a, g, _ = c.factors(layer)
        v = padded_inverse(g[0]) @ layer.d["weight"] @ padded_inverse(a[0])
        np.testing.assert_allclose(moved[f"{i}.weight"], v, atol=1e-5 * np.abs(v).max())


def test_t8_a_kept_step_leaves_the_inverse_bit_identical() -> None:
    """T8: Delta below w1 = 1e9 keeps: not one bit of the inverses moves, nothing is inverted."""
    net, x, labels = mlp()
    opt = THOR(net, 0.1, trace_thresholds=(1e9, 0.0), split_dim=4)
    step = TrainStep(net, cross_entropy(), opt)
    data = [(ms.Tensor(a), ms.Tensor(b)) for a, b in batches(x, labels, 3)]
    step(*data[0])

    def inverses() -> list[np.ndarray]:
        return [
            k.asnumpy().copy() for curv in opt.curvatures for k in (curv.inverse_a, curv.inverse_g)
        ]

    first = inverses()
    assert all(np.abs(m - np.eye(m.shape[-1])).max() > 0.01 for m in first), (
        "the first step inverts"
    )
    for batch in data[1:]:
        step(*batch)
    assert all((a == b).all() for a, b in zip(first, inverses()))
    assert [(r.accepted, r.kept, r.stopped) for r in opt.layer_report()] == [(1, 2, False)] * 2


def test_what_is_collected_between_two_refreshes_changes_no_bit() -> None:
    """Nothing is averaged: the statistics of the refresh's own step overwrite the others."""
    found = []
    for interval in (1, 4):
        net, x, labels = mlp()
        optimizer = THOR(net, 0.1, factor_interval=interval, inverse_interval=4, momentum=0.9)
        step = TrainStep(net, cross_entropy(), optimizer)
        steps.train(step, batches(x, labels, 9))
        found.append(steps.weights(net))
    steps.same(*found)
