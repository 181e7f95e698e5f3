"""Shampoo's updates against the float64 oracle and the singular value decomposition."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import steps
from mindspore import Tensor
from oracle.baselines import Shampoo as Oracle
from oracle.baselines import inverse_root
from oracle.bridge import oracle_net
from oracle.nets import ODD, batches, conv_net, mlp, small_conv_net, token_net
from oracle.training import cross_entropy
from steps import Outer, assert_close

from mindspore_thor import Shampoo, TrainStep
from mindspore_thor.errors import UserError

run = partial(steps.run, Shampoo, Oracle)


@pytest.mark.parametrize(
    ("problem", "options"),
    [
        (conv_net, {"max_preconditioner_dim": 5}),
        (small_conv_net, {"grafting": "sgd", "kl_clip": 0.01}),
    ],
    ids=["every kind, ragged blocks", "grafted and clipped"],
)
def test_one_step_on_convolutions(problem, options) -> None:
    errors, _, _ = run(problem(), **options)
    assert_close(errors, 1e-4)


def test_one_step_on_tokens() -> None:
    """Biases, the embedding and LayerNorm have the plain gradient."""
    errors, _, step = run(token_net())
    assert_close(errors, 1e-4)
    report = step.optimizer.layer_report()
    assert [row.covered for row in report] == [False, False, True, True, True]
    assert "Embedding" in report[0].reason


def test_the_first_step_is_u_vt() -> None:
    """(D D^T)^-1/4 D (D^T D)^-1/4 = U V^T: every singular value becomes one as epsilon -> 0."""
    net, x, labels = mlp(sizes=(6, 5, 4))
    reference = oracle_net(net)
    reference.loss(x, labels)
    before = [cell.weight.asnumpy().astype(np.float64) for cell in net]
    step = TrainStep(net, cross_entropy(), Shampoo(net, 1.0, epsilon=1e-12, momentum=0.0))
    step(Tensor(x), Tensor(labels))
    for w, cell, layer in zip(before, net, reference.layers):
        u, s, vt = np.linalg.svd(layer.d["weight"], full_matrices=False)
        # The logits' gradients sum to zero over the classes: that direction has no singular value.
        sound = s > 1e-6 * s[0]
        assert sound.sum() >= 3
        np.testing.assert_allclose(w - cell.weight.asnumpy(), u[:, sound] @ vt[sound], atol=5e-3)


def test_sums_grow_and_roots_follow_their_interval() -> None:
    """Gradients of steps 0, 2, 4 enter; roots are made at 0, 3, 4; the loss scale cancels."""
    errors, oracle, step = run(
        mlp(sizes=ODD),
        6,
        lr=0.05,
        momentum=0.8,
        weight_decay=0.03,
        factor_interval=2,
        inverse_interval=[(0, 3), (3, 1), (4, 9)],
        loss_scale=256.0,
    )
    assert_close(errors, 1e-4)
    for layer, curvature in zip(oracle.net.layers, step.optimizer.curvatures):
        left, right = oracle.states[id(layer)].fresh[0, 0, 0]
        np.testing.assert_allclose(curvature.sum_left.asnumpy()[0], left, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(curvature.sum_right.asnumpy()[0], right, rtol=1e-3, atol=1e-6)
    assert [row.accepted for row in step.optimizer.layer_report()] == [3, 3]


def test_blocks_without_statistics_keep_the_plain_gradient() -> None:
    """Roots of sums that are still zero would be epsilon^-1/4: steps of 100 times the gradient.

    Three of the six inputs are zero in the only step that collects.
    """
    net, x, labels = mlp(sizes=(6, 4))
    options = {"max_preconditioner_dim": 3, "factor_interval": 9, "inverse_interval": 9}
    step = TrainStep(net, cross_entropy(), Shampoo(net, 1.0, momentum=0.0, **options))
    first = x * np.array([1, 1, 1, 0, 0, 0], np.float32)
    reference = oracle_net(net)
    reference.loss(first, labels)
    observed = reference.layers[0].d["weight"]
    step(Tensor(first), Tensor(labels))
    reference = oracle_net(net)
    reference.loss(x, labels)
    before, d = net[0].weight.asnumpy().astype(np.float64), reference.layers[0].d["weight"]
    step(Tensor(x), Tensor(labels))
    expected = d.copy()
    for rows in (slice(0, 3), slice(3, 4)):
        old = observed[rows, :3]
        left, right = inverse_root(old @ old.T, 1e-4), inverse_root(old.T @ old, 1e-4)
        expected[rows, :3] = left @ d[rows, :3] @ right
    found = before - net[0].weight.asnumpy()
    assert np.abs(expected - d).max() > 0.1 * np.abs(d).max()
    np.testing.assert_allclose(found[:, 3:], d[:, 3:], atol=1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_all_phases_in_one_graph_do_the_same() -> None:
    x, labels = mlp()[1:]
    found = []
    for wrap in (lambda step: step, Outer):
        net = mlp()[0]
        step = TrainStep(
            net, cross_entropy(), Shampoo(net, 0.05, factor_interval=2, inverse_interval=3)
        )
        run_step = wrap(step)
        for a, b in batches(x, labels, 5):
            run_step(Tensor(a), Tensor(b))
        found.append({k: p.asnumpy() for k, p in step.parameters_dict().items()})
    for key, value in found[0].items():
        np.testing.assert_allclose(value, found[1][key], rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.parametrize(
    ("option", "value"),
    [("epsilon", 0.0), ("max_preconditioner_dim", 0), ("grafting", "adam")],
)
def test_values_out_of_range_are_named(option, value) -> None:
    with pytest.raises(UserError, match=option):
        Shampoo(mlp()[0], 0.1, **{option: value})
