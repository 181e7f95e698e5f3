"""Eva's statistics and updates against the float64 oracle's dense rank-one solve."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import steps
from mindspore import nn
from oracle.baselines import Eva as Oracle
from oracle.nets import ODD, batches, conv_net, mlp, token_net
from oracle.training import compare, cross_entropy
from steps import assert_close

from mindspore_thor import Eva, TrainStep
from mindspore_thor.errors import UserError

run = partial(steps.run, Eva, Oracle)


def test_one_step_on_every_convolution() -> None:
    errors, _, step = run(conv_net(), kl_clip=None)
    assert_close(errors, 1e-4)
    covered = [row.covered for row in step.optimizer.layer_report()]
    assert covered == [True, True, False, True, True, True, True]


@pytest.mark.parametrize(
    "options",
    [{"damping": 0.3, "kl_clip": 0.01}, {"token_mode": "reduce", "kl_clip": None}],
    ids=["expand", "reduce"],
)
def test_one_step_on_tokens(options) -> None:
    errors, _, _ = run(token_net(), **options)
    assert_close(errors, 1e-4)


def test_the_rank_one_part_is_felt() -> None:
    """A large rank-one curvature: the update is far from D / lam, which a wrong sign would miss."""
    net, x, labels = mlp(sizes=(4, 3))
    x = (3.0 + x).astype(np.float32)
    labels[:] = 1  # one class: the mean gradient is far from zero
    errors, oracle, _ = run((net, x, labels), damping=0.03, kl_clip=None)
    assert_close(errors, 1e-4)
    layer = oracle.net.layers[0]
    a, g = oracle.states[id(layer)].fresh
    assert (a**2).sum() * (g**2).sum() > 10 * 0.03


def test_means_are_averaged_and_the_first_update_overwrites() -> None:
    """old * decay + new * (1 - decay) on steps 0, 2, 4, with this step's lam in every solve.

    The loss scale cancels.
    """
    net, x, labels = mlp(sizes=ODD)
    data = batches(x, labels, 5)
    shared = {"factor_decay": 0.7, "factor_interval": 2, "momentum": 0.8, "weight_decay": 0.03}
    scaled = {**shared, "loss_scale": 256.0}
    damping = nn.ExponentialDecayLR(0.5, 0.7, 1)
    errors, oracle, step = compare(
        net,
        data,
        lambda n: TrainStep(n, cross_entropy(), Eva(n, 0.1, damping=damping, **scaled)),
        lambda o: Oracle(o, lr=0.1, damping=lambda k: 0.5 * 0.7**k, **shared),
    )
    assert_close(errors, 1e-4)
    assert step.optimizer.failed_inversions == 0
    for layer, curvature in zip(oracle.net.layers, step.optimizer.curvatures):
        a, g = oracle.states[id(layer)].fresh
        np.testing.assert_allclose(curvature.mean_a().asnumpy()[:, :, 0], a, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(curvature.mean_g().asnumpy()[:, :, 0], g, rtol=1e-3, atol=1e-5)
    # By hand for the first layer, whose input no weight has touched.
    means = [np.append(d[0].astype(np.float64).mean(0), 1.0) for d in data]
    expected = 0.7 * (0.7 * means[0] + 0.3 * means[2]) + 0.3 * means[4]
    got = step.optimizer.curvatures[0].mean_a().asnumpy()[0, :, 0]
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("option", "value"), [("factor_decay", 1.0), ("inverse_interval", 0), ("kl_clip", 0.0)]
)
def test_values_out_of_range_are_named(option, value) -> None:
    with pytest.raises(UserError, match=option):
        Eva(mlp()[0], 0.1, **{option: value})
