"""KFAC's statistics and updates against the float64 oracle of tests/oracle."""

from __future__ import annotations

from functools import partial

import mindspore as ms
import numpy as np
import pytest
import steps
from mindspore import Tensor, nn
from oracle import curvature as c
from oracle.bridge import oracle_net, randomise
from oracle.nets import ODD, batches, conv_net, mlp, token_net
from oracle.optimizers import Kfac
from oracle.training import compare, cross_entropy
from steps import assert_close

from mindspore_thor import KFAC, TrainStep

TOLERANCE = 1e-5

run = partial(steps.run, KFAC, Kfac)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"method": "eigen", "kl_clip": None},
        {"method": "inverse", "kl_clip": None},
    ],
    ids=["eigen", "inverse pi"],
)
def test_one_step_on_every_convolution(options) -> None:
    errors, _, _ = run(conv_net(), **options)
    # The damped eigenvalues span up to 1e4 here, which multiplies float32's 6e-8.
    assert_close(errors, 1e-4 if options["method"] == "eigen" else TOLERANCE)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "eigen", "damping": 0.3},
        {"method": "inverse", "damping_mode": "sqrt", "token_mode": "reduce", "kl_clip": None},
        {"method": "inverse", "damping_mode": "paper", "kl_clip": 0.01},
    ],
    ids=["eigen expand", "inverse reduce", "inverse paper"],
)
def test_one_step_on_tokens(options) -> None:
    """Embedding and LayerNorm have no KFAC factors: their gradient is the plain one."""
    errors, _, step = run(token_net(), **options)
    assert_close(errors, 5e-5)
    assert [row.covered for row in step.optimizer.layer_report()] == [
        False,
        False,
        True,
        True,
        True,
    ]


def test_factors_are_averaged_and_the_first_update_overwrites() -> None:
    """old * decay + new * (1 - decay), on steps 0, 2, 4; step 0 stores the fresh factor itself.

    The loss scale cancels.
    """
    problem = mlp(sizes=ODD)
    data = batches(*problem[1:], 5)
    options = {"factor_decay": 0.7, "factor_interval": 2, "kl_clip": None, "loss_scale": 256.0}
    errors, oracle, step = run(problem, data, lr=0.3, **options)
    assert_close(errors, 5e-5)
    for layer, curvature in zip(oracle.net.layers, step.optimizer.curvatures):
        a, g, _ = oracle.states[id(layer)].fresh
        np.testing.assert_allclose(
            curvature.factor_a().asnumpy()[:, 0], a, rtol=1e-4, atol=1e-5 * np.abs(a).max()
        )
        np.testing.assert_allclose(
            curvature.factor_g().asnumpy()[:, 0], g, rtol=1e-4, atol=1e-4 * np.abs(g).max()
        )
    # By hand for the first layer, whose input no weight has touched.
    first = [np.c_[d[0], np.ones(len(d[0]))].astype(np.float64) for d in data]
    moments = [f.T @ f / len(f) for f in first]
    expected = 0.7 * (0.7 * moments[0] + 0.3 * moments[2]) + 0.3 * moments[4]
    got = step.optimizer.curvatures[0].factor_a().asnumpy()[0, 0]
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("method", ["eigen", "inverse"])
def test_several_steps_with_everything_changing(method) -> None:
    """Eigen divides by this step's lam, the stored inverse keeps the lam it was made with."""
    net, x, labels = mlp(sizes=(4, 6, 3))
    shared = {
        "method": method,
        "momentum": 0.8,
        "weight_decay": 0.03,
        "factor_decay": 0.5,
        "factor_interval": lambda step: 1 + step // 2,
        "inverse_interval": [(0, 2), (3, 1)],
        "kl_clip": 0.02,
    }
    rate = nn.ExponentialDecayLR(0.1, 0.8, 1)
    damping = nn.ExponentialDecayLR(0.5, 0.7, 1)
    errors, _, _ = compare(
        net,
        batches(x, labels, 6),
        lambda n: TrainStep(n, cross_entropy(), KFAC(n, rate, damping=damping, **shared)),
        lambda o: Kfac(o, lr=lambda k: 0.1 * 0.8**k, damping=lambda k: 0.5 * 0.7**k, **shared),
    )
    assert_close(errors, 1e-4)  # rounding of one step moves the next one's gradient


def test_kl_clip_sums_each_group_with_its_own_rate() -> None:
    """nu = min(1, sqrt(kl / sum_l lr_l^2 <V_l, D_l>)) where the layers' learning rates differ.

    So the KL divergence of the update to second order, nu^2 sum_l lr_l^2 <V_l, D_l>, is kl.
    """
    net, x, labels = mlp(sizes=(5, 6, 3))
    oracle = oracle_net(net)
    oracle.loss(x, labels)
    layers = oracle.layers
    rates = {"0": 0.5, "1": 0.05}
    v, total = {}, 0.0
    for i, layer in enumerate(layers):
        m = c.matrix(layer, True)
        a, g, t = c.factors(layer, True)
        v[i] = c.eigen_precondition(m, c.eigen(a, g), t, 0.03)
        total += rates[str(i)] ** 2 * (v[i] * m).sum()
    nu = min(1.0, np.sqrt(0.001 / total))
    assert nu < 0.9
    cells = list(net)
    groups = [
        {"params": cells[0].trainable_params(), "lr": 0.5},
        {"params": cells[1].trainable_params(), "lr": 0.05},
    ]
    before = [cell.weight.asnumpy().astype(np.float64) for cell in cells]
    biases = [cell.bias.asnumpy().astype(np.float64) for cell in cells]
    step = TrainStep(net, cross_entropy(), KFAC(net, 0.05, momentum=0.0, params=groups))
    step(Tensor(x), Tensor(labels))
    divergence = 0.0
    for i, cell in enumerate(cells):
        rate = rates[str(i)]
        moved = np.c_[before[i] - cell.weight.asnumpy(), biases[i] - cell.bias.asnumpy()]
        expected = rate * nu * v[i][0]
        np.testing.assert_allclose(moved, expected, atol=1e-4 * np.abs(expected).max())
        divergence += nu * rate * (moved * c.matrix(layers[i], True)[0]).sum()
    assert divergence == pytest.approx(0.001, rel=1e-4)


class Late(nn.Cell):
    """An ``mlp()`` whose layer ``late`` is used in the graphs compiled while ``use`` is set."""

    def __init__(self, body: nn.SequentialCell) -> None:
        super().__init__(auto_prefix=False)
        self.body = body
        self.late = randomise(nn.SequentialCell(nn.Dense(5, 5)), 4)
        self.late[0].update_parameters_name("late.")
        self.use = False

    def construct(self, x):
        h = self.body[0](x)
        if self.use:
            h = h + self.late(h)
        return self.body[1](h)


def test_the_kl_clip_leaves_a_layer_without_statistics_alone() -> None:
    """It counts nothing in the sum of <V, D>, and keeps its plain gradient."""
    body, x, labels = mlp()
    net, loss_fn, kl = Late(body), cross_entropy(), 1e-4
    oracle = Kfac(oracle_net(body))
    oracle.step(x, labels)
    optimizer = KFAC(net, 1.0, kl_clip=kl, momentum=0.0, factor_interval=9, inverse_interval=9)
    step = TrainStep(net, loss_fn, optimizer)
    inputs = Tensor(x), Tensor(labels)
    step(*inputs)
    net.use = True
    before = {p.name: p.asnumpy().astype(np.float64) for p in net.trainable_params()}

    def loss(a, b):
        return loss_fn(net(a), b)

    gradient = ms.value_and_grad(loss, None, optimizer.weights)
    expected = {p.name: g.asnumpy() for p, g in zip(optimizer.weights, gradient(*inputs)[1])}
    overlap = 0.0
    for i, layer in enumerate(oracle.net.layers):
        weight, bias = f"{i}.weight", f"{i}.bias"
        d = np.concatenate((expected[weight], expected[bias][:, None]), 1)[None]
        v = c.eigen_precondition(d, *oracle.states[id(layer)].inverse, 0.03)
        overlap += (v * d).sum()
        expected[weight], expected[bias] = v[0, :, :-1], v[0, :, -1]
    shrink = np.sqrt(kl / overlap)
    assert shrink < 0.1
    step(*inputs)
    for p in net.trainable_params():
        wanted = expected[p.name] * (1.0 if p.name.startswith("late") else shrink)
        found = before[p.name] - p.asnumpy()
        atol = 1e-3 * np.abs(wanted).max()
        np.testing.assert_allclose(found, wanted, atol=atol, err_msg=p.name)
