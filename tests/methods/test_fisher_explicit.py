"""Kronecker factors and preconditioning against explicit Fisher matrices of small layers.

vec is column-stacking: vec(g a^T) = a (x) g, so a block of the Fisher is E[a a^T (x) g g^T].
"""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor, nn
from oracle.bridge import oracle_net, randomise
from oracle.nets import ODD, mlp
from oracle.training import cross_entropy

from mindspore_thor import KFAC, THOR, TrainStep


class LinearLoss(nn.Cell):
    """Mean over samples of <output, c>: the per-sample gradient of the output is c itself."""

    def construct(self, output, c):
        return (output * c).sum() / output.shape[0]


def one_step(net, loss, optimizer, x, target) -> dict[str, np.ndarray]:
    """What one step with lr 1 takes away from every parameter."""
    before = {p.name: p.asnumpy().astype(np.float64) for p in net.trainable_params()}
    TrainStep(net, loss, optimizer)(Tensor(x), Tensor(target))
    return {p.name: before[p.name] - p.asnumpy() for p in net.trainable_params()}


def vec(m: np.ndarray) -> np.ndarray:
    return m.T.reshape(-1)


def unvec(v: np.ndarray, rows: int) -> np.ndarray:
    return v.reshape(-1, rows).T


def close(got: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_kfac_of_one_sample_is_the_exact_empirical_fisher() -> None:
    """N = 1: A (x) G = u u^T with u = vec(g a~^T), so V = (u u^T + lam I)^-1 vec(D), D = g a~^T.

    An eigenvector that is off by float32's 1e-6 leaks D into the empty directions, where it is
    enlarged by |u|^2 / lam: hence the larger damping and tolerance.
    """
    net, x, labels = mlp(batch=1, sizes=(4, 3, 3))
    oracle = oracle_net(net)
    oracle.loss(x, labels)
    optimizer = KFAC(net, 1.0, damping=0.3, momentum=0.0, kl_clip=None)
    moved = one_step(net, cross_entropy(), optimizer, x, labels)
    for i, layer in enumerate(oracle.layers):
        d = np.c_[layer.d["weight"], layer.d["bias"]]
        u = vec(d)
        v = unvec(np.linalg.solve(np.outer(u, u) + 0.3 * np.eye(len(u)), u), len(d))
        close(np.c_[moved[f"{i}.weight"], moved[f"{i}.bias"]], v, 1e-4)


def test_the_factors_are_the_partial_sums_of_the_per_sample_gradients() -> None:
    """G = E[g g^T] from N single-sample backward passes, not from the batch's mean gradient."""
    net, x, labels = mlp(batch=6, sizes=ODD)
    optimizer = KFAC(net, 1.0, momentum=0.0)
    samples = []
    for n in range(6):
        single = oracle_net(net)
        single.loss(x[n : n + 1], labels[n : n + 1])
        samples.append(single.layers)
    TrainStep(net, cross_entropy(), optimizer)(Tensor(x), Tensor(labels))
    for i, curvature in enumerate(optimizer.curvatures):
        # With a~ = [a; 1] the bias gradient of one sample is g itself.
        g = np.stack([layers[i].d["bias"] for layers in samples])
        a = np.stack([np.r_[layers[i].x[0], 1.0] for layers in samples])
        close(curvature.factor_g().asnumpy()[0, 0], g.T @ g / 6, 1e-5)
        close(curvature.factor_a().asnumpy()[0, 0], a.T @ a / 6, 1e-5)


@pytest.mark.parametrize("method", ["eigen", "inverse", "thor"])
def test_kronecker_solve_is_the_dense_solve(method) -> None:
    """A grouped convolution with T positions: per group one dense d_in*d_out system."""
    rng = np.random.default_rng(3)
    net = randomise(nn.SequentialCell(nn.Conv2d(4, 6, (2, 1), pad_mode="valid", group=2)), 3)
    x = rng.standard_normal((9, 4, 4, 2)).astype(np.float32)
    c = rng.standard_normal((9, 6, 3, 2)).astype(np.float32)
    oracle = oracle_net(net)
    layer = oracle.layers[0]
    layer.forward(x.astype(np.float64))
    layer.backward(c.astype(np.float64) / 9)
    if method == "thor":
        optimizer = THOR(net, 1.0, momentum=0.0, split_dim=2)
    else:
        optimizer = KFAC(net, 1.0, momentum=0.0, kl_clip=None, method=method, damping_mode="sqrt")
    moved = one_step(net, LinearLoss(), optimizer, x, c)["0.weight"].reshape(2, 3, 4)
    d = layer.d["weight"].reshape(2, 3, 4)
    patches = layer.patches(x.astype(np.float64))
    g = c.astype(np.float64).reshape(9, 2, 3, 6)
    lam, t = 0.03, 6
    block = np.ones((12, 12))
    if method == "thor":
        ia, ig = np.arange(4).repeat(3) // 2, np.tile(np.arange(3) // 2, 4)
        block = (ia[:, None] == ia) & (ig[:, None] == ig)
    for k in range(2):
        a_mean = np.einsum("nit,njt->ij", patches[:, k], patches[:, k]) / 54
        g_mean = np.einsum("nit,njt->ij", g[:, k], g[:, k]) / 54
        if method == "eigen":
            dense = t * np.kron(a_mean, g_mean) + lam * np.eye(12)
        else:
            root = np.sqrt(lam / t)
            dense = t * np.kron(a_mean + root * np.eye(4), g_mean + root * np.eye(3)) * block
        close(moved[k], unvec(np.linalg.solve(dense, vec(d[k])), 3), 2e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda net: THOR(net, 1.0, momentum=0.0, split_dim=5),
        lambda net: KFAC(net, 1.0, momentum=0.0, kl_clip=None),
    ],
    ids=["thor", "kfac"],
)
def test_a_convolution_with_one_position_is_a_dense_layer(make) -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((7, 2, 3, 2)).astype(np.float32)
    c = rng.standard_normal((7, 4)).astype(np.float32)
    conv = randomise(
        nn.SequentialCell(nn.Conv2d(2, 4, (3, 2), pad_mode="valid", has_bias=True), nn.Flatten()), 4
    )
    dense = nn.SequentialCell(nn.Flatten(), nn.Dense(12, 4))
    dense[1].weight.set_data(Tensor(conv[0].weight.asnumpy().reshape(4, 12)))
    dense[1].bias.set_data(conv[0].bias.value())
    a = one_step(conv, LinearLoss(), make(conv), x, c)
    b = one_step(dense, LinearLoss(), make(dense), x, c)
    close(a["0.weight"].reshape(4, 12), b["1.weight"], 1e-5)
    close(a["0.bias"], b["1.bias"], 1e-5)


def test_the_convolution_rule_scales_with_the_number_of_positions() -> None:
    """White inputs and gradients: F = T A (x) G; without the T the error is 1 - 1/T.

    F is estimated from N = 20000 per-sample gradients of 6 numbers: its own sampling error is
    about sqrt(6 / N) = 2 %.
    """
    rng = np.random.default_rng(5)
    n, t = 20_000, 6
    x = rng.standard_normal((n, 2, 3, 2)).astype(np.float32)
    c = rng.standard_normal((n, 3, 3, 2)).astype(np.float32)
    net = nn.SequentialCell(nn.Conv2d(2, 3, 1, pad_mode="valid"))
    optimizer = KFAC(net, 1.0, momentum=0.0)
    TrainStep(net, LinearLoss(), optimizer)(Tensor(x), Tensor(c))
    u = np.einsum("ndt,not->ndo", x.reshape(n, 2, t), c.reshape(n, 3, t)).reshape(n, 6)
    fisher = u.T @ u / n
    curvature = optimizer.curvatures[0]
    kron = np.kron(curvature.factor_a().asnumpy()[0, 0], curvature.factor_g().asnumpy()[0, 0])
    positions = float(curvature.positions().asnumpy())
    error = np.linalg.norm(fisher - positions * kron) / np.linalg.norm(fisher)
    assert error < 0.05
    assert np.linalg.norm(fisher - kron) / np.linalg.norm(fisher) == pytest.approx(
        1 - 1 / t, abs=0.05
    )
