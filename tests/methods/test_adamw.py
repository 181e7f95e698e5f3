"""AdamW and NAdamW against their formulas, and the registry's first-order baselines."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from mindspore_thor import UserError
from mindspore_thor.methods.adamw import AdamW
from mindspore_thor.methods.nadamw import NAdamW
from mindspore_thor.optim import create_optimizer, optimizer_options


def formula(w, gradients, rates, beta1, beta2, epsilon, decay, nesterov=False):
    """Loshchilov & Hutter 2019, Algorithm 2, in float64; on demand with Dozat's momentum."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, (g, lr) in enumerate(zip(gradients, rates), 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        first = m / (1 - beta1**t)
        if nesterov:
            first = beta1 * first + (1 - beta1) * g / (1 - beta1**t)
        w = w - lr * (first / (np.sqrt(v / (1 - beta2**t)) + epsilon) + decay * w)
    return w


@pytest.mark.parametrize("kind", [AdamW, NAdamW])
@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def test_three_steps_of_the_formula(mode, kind) -> None:
    ms.set_context(mode=mode)
    rng = np.random.default_rng(0)
    w = rng.standard_normal((3, 4))
    gradients = rng.standard_normal((3, 3, 4)) * np.array([1.0, 1e-3, 10.0])[:, None, None]
    p = Parameter(Tensor(w.astype(np.float32)), name="w")
    rates = [0.1, 0.05, 0.2]
    optimizer = kind([p], rates, 0.8, 0.95, 1e-6, weight_decay=0.3, loss_scale=16.0)
    for g in gradients:
        optimizer((Tensor((16 * g).astype(np.float32)),))
    expected = formula(w, gradients, rates, 0.8, 0.95, 1e-6, 0.3, kind is NAdamW)
    np.testing.assert_allclose(p.asnumpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw", "nadamw"])
def test_baselines_decay_matrices_only(name) -> None:
    """With a gradient of zero only decay moves a weight: by lr * decay * w; biases stay."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    net = nn.SequentialCell(nn.Conv2d(2, 3, 1, has_bias=True), nn.BatchNorm2d(3))
    net[0].bias.set_data(Tensor(np.ones(3, np.float32)))
    before = {p.name: p.asnumpy().copy() for p in net.trainable_params()}
    optimizer = create_optimizer(name, net, 0.5, weight_decay=0.1)
    optimizer(tuple(Tensor(np.zeros(p.shape, np.float32)) for p in net.trainable_params()))
    for p in net.trainable_params():
        kept = 0.95 if len(p.shape) > 1 else 1.0
        np.testing.assert_allclose(p.asnumpy(), kept * before[p.name], rtol=1e-6, err_msg=p.name)


@pytest.mark.parametrize(
    "options", [{"beta1": 1.0}, {"beta2": -0.1}, {"epsilon": 0.0}, {"weight_decay": -1.0}]
)
def test_bad_values_are_refused_by_name(options) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        create_optimizer("adamw", nn.Dense(2, 2), 0.1, **options)


def test_registry_names_what_it_has() -> None:
    with pytest.raises(UserError, match="thor"):
        create_optimizer("thorr", nn.Dense(2, 2), 0.1)
    with pytest.raises(UserError, match="split"):
        create_optimizer("kfac", nn.Dense(2, 2), 0.1, split=3)
    assert {"damping", "split_dim", "trace_thresholds", "clip_norm"} <= set(
        optimizer_options("thor")
    )
    assert "net" not in optimizer_options("thor") and "self" not in optimizer_options("sgd")
