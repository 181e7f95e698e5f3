"""TKFAC's statistics and updates against the float64 oracle of tests/oracle."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import steps
from mindspore import nn
from oracle import curvature as c
from oracle.baselines import Tkfac as Oracle
from oracle.nets import ODD, batches, conv_net, mlp, token_net
from oracle.training import compare, cross_entropy
from steps import assert_close, both_token_modes

from mindspore_thor import TKFAC, TrainStep

run = partial(steps.run, TKFAC, Oracle)


def test_one_step_on_every_convolution() -> None:
    errors, oracle, step = run(conv_net())
    assert_close(errors, 2e-5)
    layers = [layer for layer in oracle.net.layers if id(layer) in covered(oracle)]
    for layer, curvature in zip(layers, step.optimizer.curvatures):
        # Both traces are 1; the trace of the whole is E[sum_t |a|^2 |g|^2] of this batch.
        a, g = c.rows(layer, "bias" in layer.p)
        expected = ((a**2).sum(-1) * (g**2).sum(-1)).sum(2).mean(0)
        delta = curvature.delta().asnumpy().ravel()
        np.testing.assert_allclose(delta, expected, rtol=1e-5)
        for factor in (curvature.phi(), curvature.psi()):
            traces = np.trace(factor.asnumpy()[:, 0], axis1=1, axis2=2)
            np.testing.assert_allclose(traces, np.ones_like(traces), rtol=1e-5)


def covered(oracle: Oracle) -> list[int]:
    return [key for key, state in oracle.states.items() if state.fresh is not None]


@both_token_modes
def test_one_step_on_tokens(options) -> None:
    errors, _, _ = run(token_net(), **options)
    assert_close(errors, 5e-5)


def test_the_trace_is_that_of_the_fisher_block() -> None:
    """tr(delta Phi (x) Psi) is the trace of E[vec(g a^T) vec(g a^T)^T] where T is 1."""
    net, x, labels = mlp(sizes=ODD)
    _, oracle, step = run((net, x, labels))
    layer = oracle.net.layers[0]
    a, g = (rows[:, 0, 0] for rows in c.rows(layer, True))
    u = np.einsum("ni,nj->nij", a, g).reshape(len(a), -1)  # a (x) g
    fisher = u.T @ u / len(u)
    curvature = step.optimizer.curvatures[0]
    kron = np.kron(curvature.phi().asnumpy()[0, 0], curvature.psi().asnumpy()[0, 0])
    block = float(curvature.delta().asnumpy().ravel()[0]) * kron
    assert np.trace(block) == pytest.approx(np.trace(fisher), rel=1e-5)
    # The partial traces of the two agree as well, which KFAC's factors do not give.
    shape = (a.shape[1], g.shape[1]) * 2
    for pattern in ("ibjb->ij", "ibic->bc"):
        want, got = (np.einsum(pattern, m.reshape(shape)) for m in (fisher, block))
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_moments_are_averaged_before_they_are_normalised() -> None:
    """Old * decay + new * (1 - decay) on steps 0, 2, 4; inverses keep their lam.

    The loss scale cancels.
    """
    net, x, labels = mlp()
    shared = {
        "factor_decay": 0.7,
        "factor_interval": 2,
        "inverse_interval": [(0, 2), (3, 1)],
        "momentum": 0.8,
        "weight_decay": 0.03,
        "kl_clip": 0.02,
    }
    scaled = {**shared, "loss_scale": 256.0}
    damping = nn.ExponentialDecayLR(0.5, 0.7, 1)
    errors, oracle, step = compare(
        net,
        batches(x, labels, 5),
        lambda n: TrainStep(n, cross_entropy(), TKFAC(n, 0.1, damping=damping, **scaled)),
        lambda o: Oracle(o, lr=0.1, damping=lambda k: 0.5 * 0.7**k, **shared),
    )
    assert_close(errors, 1e-4)
    for layer, curvature in zip(oracle.net.layers, step.optimizer.curvatures):
        phi, psi, delta = oracle.states[id(layer)].fresh
        np.testing.assert_allclose(curvature.delta().asnumpy().ravel(), delta, rtol=1e-4)
        for got, moment in ((curvature.phi(), phi), (curvature.psi(), psi)):
            np.testing.assert_allclose(got.asnumpy()[:, 0], moment / delta, atol=1e-5)
    assert [row.accepted for row in step.optimizer.layer_report()] == [3, 3]
