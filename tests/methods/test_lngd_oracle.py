"""LNGD's factors, directions and rates against float64 formulas and the explicit Fisher matrix."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import steps
from oracle.bridge import oracle_net
from oracle.natural import Lngd, per_sample
from oracle.nets import conv_net, mlp, token_net
from steps import assert_close

from mindspore_thor import LNGD, DynamicLossScale

run = partial(steps.run, partial(LNGD, sampling="analytic"), Lngd)


# -- whole steps


def test_one_step_on_every_convolution() -> None:
    """lr = 1, intervals of 1: every covered weight moves by minus alpha_l d_l."""
    errors, oracle, step = run(conv_net())
    for name, error in errors.items():
        # A float32 inverse is as good as its condition number allows: six samples leave most of
        # the Dense layers' Phi to the damping of 0.01.
        inverses = oracle.inverses.get(int(name.split(".")[0]))
        condition = 1.0 if inverses is None else np.linalg.cond(inverses[0]).max()
        assert error < max(1e-5, 2e-7 * condition), (name, error, condition)
    rows = {row.layer: (row.covered, row.reason) for row in step.optimizer.layer_report()}
    assert rows["0"] == (True, "phi = LeakyReLU (next in its SequentialCell)")
    assert rows["2"] == (True, "phi' = 1: no activation is known to follow directly")
    assert rows["9"] == (True, "phi = LeakyReLU (its own)")
    assert not rows["3"][0]  # BatchNorm
    assert all(row.accepted == 1 for row in step.optimizer.layer_report() if row.covered)


def test_one_step_on_tokens() -> None:
    """Both ablations; tokens are positions of one sample, Embedding and LayerNorm stay plain."""
    errors, _, step = run(token_net(), adaptive_rate=False, gradients="true")
    assert_close(errors, 2e-4)
    covered = [row.covered for row in step.optimizer.layer_report()]
    assert covered == [False, False, True, True, True]


@pytest.mark.parametrize(
    ("intervals", "fisher"), [((2, 4), "per_sample"), ((3, 2), "batch")], ids=str
)
def test_several_steps_with_everything_changing(intervals, fisher) -> None:
    """Averages, intervals that do not match, the rate inside the momentum, decay, loss scale."""
    lr = [0.2 * 0.7**k for k in range(9)]
    shared = {
        "momentum": 0.8, "weight_decay": 0.03, "ema_old_weight": 0.6, "mu": 0.01,
        "factor_interval": intervals[0], "inverse_interval": intervals[1], "fisher": fisher,
    }  # fmt: skip
    scale = DynamicLossScale(initial=64, window=2) if fisher == "batch" else 64.0
    errors, oracle, step = run(mlp(sizes=(4, 6, 3)), 7, lr=lr, loss_scale=scale, **shared)
    assert_close(errors, 2e-4)
    for i, curvature in enumerate(step.optimizer.curvatures):
        expected = np.concatenate([f.ravel() for f in oracle.factors[i]])
        stored = curvature.statistics.asnumpy()[: len(expected)]
        np.testing.assert_allclose(stored, expected, atol=1e-4 * np.abs(expected).max())
    counts = [row.accepted for row in step.optimizer.layer_report()]
    assert counts == [-(-7 // intervals[1])] * 2


def test_layer_wise_rates_are_no_worse_than_a_common_one() -> None:
    """L8: the quadratic model at alpha_l d_l is at most its minimum over one common rate.

    The directions d_l that the common rate would multiply are the oracle's.
    """
    net, x, labels = mlp()
    before = oracle_net(net).weights()
    run((net, x, labels), mu=0.0)
    own_rates = {p.name: before[p.name] - p.asnumpy() for p in net.trainable_params()}
    one_rate = Lngd(oracle_net(mlp()[0]), mu=0.0, adaptive_rate=False)
    one_rate.step(x, labels)
    after = one_rate.net.weights()
    oracle = oracle_net(mlp()[0])
    oracle.loss(x, labels)

    def model(step: dict[str, np.ndarray]) -> tuple[float, float]:
        """Sum over layers of <v, grad> and of v^T F v."""
        linear = quadratic = 0.0
        for i, layer in enumerate(oracle.layers):
            u = per_sample(layer)
            weight = step[f"{i}.weight"][None]
            v = np.concatenate([weight, step[f"{i}.bias"][None, :, None]], 2).ravel()
            linear += v @ u.mean(0)
            quadratic += ((u @ v) ** 2).mean()
        return linear, quadratic

    linear, quadratic = model(own_rates)
    own = -linear + 0.5 * quadratic
    linear, quadratic = model({name: w - after[name] for name, w in before.items()})
    common = -(linear**2) / (2 * quadratic)
    assert own < common < 0
    assert own < 1.01 * common  # the layers' rates do differ here
