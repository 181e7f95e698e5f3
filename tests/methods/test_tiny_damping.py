"""Dampings that float32 loses beside the curvature: the step is float64's, or shorter."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from mindspore import Tensor, nn
from oracle import baselines
from oracle.bridge import randomise
from oracle.nets import mlp
from oracle.optimizers import Kfac
from oracle.training import cross_entropy
from steps import assert_close, run

from mindspore_thor import EKFAC, KFAC, THOR, TKFAC, Eva, TrainStep

CLIPLESS = {"kl_clip": None}
METHODS = {
    "kfac": partial(KFAC, **CLIPLESS),
    "kfac inverse": partial(KFAC, method="inverse", **CLIPLESS),
    "thor": partial(THOR, split_dim=None),
    "thor paper": partial(THOR, split_dim=None, damping_mode="paper"),
    "ekfac": EKFAC,
    "tkfac": TKFAC,
    "eva": partial(Eva, **CLIPLESS),
}


@pytest.mark.parametrize("name", METHODS)
def test_rounding_errors_are_not_blown_up(name) -> None:
    """One sample: D = g a^T lies in the leading eigenvectors, V = D / (|a|^2 |g|^2) as lam -> 0.

    What rounding leaves of D in the other directions made it 10 to 100,000 times as long.
    """
    net = randomise(nn.SequentialCell(nn.Dense(5, 3, has_bias=False)), 6)
    x = np.random.default_rng(5).standard_normal((1, 5)).astype(np.float32)
    a = x[0].astype(np.float64)
    before = net[0].weight.asnumpy().copy()
    logits = before.astype(np.float64) @ a
    g = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum() - np.eye(3)[0]
    optimizer = METHODS[name](net, 1.0, damping=1e-9, momentum=0.0)
    TrainStep(net, cross_entropy(), optimizer)(Tensor(x), Tensor(np.zeros(1, np.int32)))
    if name == "thor paper":
        # lam itself is the damping of both factors: 1e-9 of their eigenvalues is no number here.
        assert optimizer.failed_inversions == 1
        return
    assert optimizer.failed_inversions == 0
    expected = np.outer(g, a) / ((a @ a) * (g @ g))
    found = before - net[0].weight.asnumpy()
    # Two inverses leave as much of the rounding error as the step itself, see SMALLEST_PRODUCT.
    error = 1.5 if name in ("thor", "kfac inverse", "tkfac") else 0.1
    np.testing.assert_allclose(found, expected, atol=error * np.abs(expected).max())


@pytest.mark.parametrize(
    ("optimizer", "oracle", "options"),
    [
        (KFAC, Kfac, CLIPLESS),
        (EKFAC, baselines.Ekfac, {}),
        (Eva, baselines.Eva, CLIPLESS),
    ],
)
def test_what_float32_can_tell_keeps_its_damping(optimizer, oracle, options) -> None:
    """Fewer samples than inputs: A is singular, yet small eigenvalues count, and Eva's rest."""
    errors, _, step = run(optimizer, oracle, mlp(sizes=(30, 8, 3)), damping=1e-8, **options)
    assert_close(errors, 0.03)
    assert step.optimizer.failed_inversions == 0
