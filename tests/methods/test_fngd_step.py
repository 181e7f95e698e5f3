"""FNGD in training: what later epochs compile to, other training cells, what is refused."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from graphs import compiled_graphs, operators
from mindspore import Tensor, nn
from oracle.bridge import oracle_net, randomise
from oracle.natural import Fngd
from oracle.nets import batches, mlp, small_conv_net
from oracle.training import compare, cross_entropy
from steps import Float32Loss, Outer, train

from mindspore_thor import FNGD, THOR, TrainStep, UserError
from mindspore_thor.optim import optimizer_options

N = 8


PROOF = """
from test_fngd_step import FNGD, TrainStep, cross_entropy, small_conv_net, train
from mindspore_thor.optim import create_optimizer
net, x, labels = small_conv_net()
train(TrainStep(net, cross_entropy(), create_optimizer("sgd", net, 0.1)), [(x, labels)])
net = small_conv_net()[0]
train(TrainStep(net, cross_entropy(), FNGD(net, 0.1, steps_per_epoch=1)), [(x, labels)] * 2)
"""


def test_later_epochs_hold_no_gram_matrix_no_solve_and_no_per_sample_gradient(tmp_path) -> None:
    """F7, on the final graphs: beside the plain network there are only N weights per layer."""
    # In the order of compilation: SGD; the first epoch's gradients and its update; later epochs.
    sgd, first, _, later = compiled_graphs(PROOF, tmp_path)
    base, fresh, reuse = operators(sgd), operators(first), operators(later)
    # The tools see what they look for: the first epoch has it all.
    gram, sample_gradients = f"({N}, {N})", f"({N}, 54)"  # 54 = 3 x 18 weights of the convolution
    assert fresh["MatrixInverse"] == 3 and fresh["Im2Col"] == 2
    assert gram in first and sample_gradients in first
    assert reuse["MatrixInverse"] == reuse["Im2Col"] == reuse["BatchMatMul"] == 0
    assert gram not in later and sample_gradients not in later
    # No product, convolution or branch that the plain network does not have: each weight gradient
    # is computed once.
    assert base["Conv2DBackpropFilter"] == 2 and base["MatMul"] == 3
    for name in {*base, *fresh}:
        if any(part in name for part in ("MatMul", "Conv2D", "PyExecute", "PyInterpret")):
            assert reuse[name] == base[name], name
    # SGD's step is one graph, guard included; this one's guard is in the update's graph.
    assert base["Switch"] == 1 and reuse["Switch"] == 0
    assert fresh["PyExecute"] == 0


def test_other_ways_to_run_it_give_the_same_weights() -> None:
    net, x, labels = small_conv_net()
    data = batches(x, labels, 5)
    train(TrainStep(net, cross_entropy(), FNGD(net, 0.3, steps_per_epoch=2)), data)

    def one_graph(other: nn.Cell, optimizer: FNGD) -> nn.Cell:
        return Outer(TrainStep(other, cross_entropy(), optimizer))

    def of_mindspore(other: nn.Cell, optimizer: FNGD) -> nn.Cell:
        return nn.TrainOneStepCell(nn.WithLossCell(other, cross_entropy()), optimizer).set_train()

    for way in (one_graph, of_mindspore):
        other = small_conv_net()[0]
        train(way(other, FNGD(other, 0.3, steps_per_epoch=2, batch_size=N)), data)
        for a, b in zip(net.get_parameters(), other.get_parameters()):
            message = f"{way.__name__}: {a.name}"
            np.testing.assert_allclose(a.asnumpy(), b.asnumpy(), atol=2e-6, err_msg=message)


def test_a_bad_batch_in_the_first_epoch_leaves_its_slot_plain() -> None:
    """Its coefficients are never stored; later epochs take the plain gradient in that slot."""
    net, x, labels = mlp()
    data = batches(x, labels, 4)
    bad = x.copy()
    bad[0, 0] = np.nan
    step = TrainStep(net, cross_entropy(), FNGD(net, 0.1, momentum=0.0, steps_per_epoch=2))
    train(step, [data[0]])
    before = [p.asnumpy() for p in net.get_parameters()]
    assert np.isnan(train(step, [(bad, labels)])[0])
    assert int(step.skipped.asnumpy()) == 1
    for a, p in zip(before, net.get_parameters()):
        np.testing.assert_array_equal(a, p.asnumpy())
    train(step, [data[2]])
    store = step.optimizer.curvatures[0].store.asnumpy()
    assert (store[0] != 1).all()
    np.testing.assert_array_equal(store[1], np.ones(N))
    oracle = oracle_net(net)
    oracle.loss(*data[3])
    before = [p.asnumpy().astype(np.float64) for p in net.get_parameters()]
    train(step, [data[3]])
    for a, p, d in zip(before, net.get_parameters(), oracle.gradients().values()):
        np.testing.assert_allclose(a - p.asnumpy(), 0.1 * d, atol=1e-6)


# -- layers that are special --------------------


class Direct(nn.Dense):
    """A subclass that calls the layer's operator itself: its bias is not the hook's to add."""

    def construct(self, x):
        return self.bias_add(self.matmul(x, self.weight) * 3.0, self.bias)


def test_a_subclass_with_its_own_construct_keeps_a_plain_bias_gradient() -> None:
    cell = Direct(4, 3)
    net = randomise(nn.SequentialCell(cell), 2)
    rng = np.random.default_rng(3)
    x, labels = (
        rng.standard_normal((6, 4)).astype(np.float32),
        rng.integers(0, 3, 6).astype(np.int32),
    )
    w, b = (p.asnumpy().astype(np.float64) for p in (cell.weight, cell.bias))
    logits = 3 * x @ w.T + b
    p = np.exp(logits - logits.max(1, keepdims=True))
    g = p / p.sum(1, keepdims=True) - np.eye(3)[labels]
    u = np.einsum("no,ni->noi", 3 * g, x).reshape(6, -1)
    lam = 0.01 * np.linalg.norm(u @ u.T)
    expected = lam * np.linalg.solve(u.T @ u / 6 + lam * np.eye(12), u.mean(0))
    TrainStep(net, cross_entropy(), FNGD(net, 1.0, momentum=0.0, share="none"))(
        Tensor(x), Tensor(labels)
    )
    np.testing.assert_allclose(
        (w - cell.weight.asnumpy()).ravel(), expected, atol=1e-5 * np.abs(expected).max()
    )
    np.testing.assert_allclose(b - cell.bias.asnumpy(), g.mean(0), atol=1e-6)


def test_nothing_of_the_capture_stays_behind() -> None:
    """Another optimizer on the same net trains like one on a fresh net, biases included."""
    x, labels = small_conv_net()[1:]
    results = []
    for first in (False, True):
        net = small_conv_net()[0]
        if first:
            names = [p.name for p in net.get_parameters()]
            out = net(Tensor(x)).asnumpy()
            FNGD(net, 0.1, steps_per_epoch=2)
            assert [p.name for p in net.get_parameters()] == names
            np.testing.assert_allclose(net(Tensor(x)).asnumpy(), out, rtol=1e-5, atol=1e-6)
        train(TrainStep(net, cross_entropy(), THOR(net, 0.1)), [(x, labels)])
        results.append([p.asnumpy() for p in net.get_parameters()])
    for a, b in zip(*results):
        np.testing.assert_array_equal(a, b)


def test_half_precision() -> None:
    net, x, labels = small_conv_net()
    net.to_float(ms.float16)

    optimizer = FNGD(net, 0.1, steps_per_epoch=2, loss_scale=128.0)
    step = TrainStep(net, Float32Loss(), optimizer)
    losses = train(step, [(x, labels)] * 6)
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    for curvature in optimizer.curvatures:
        store = curvature.store.asnumpy()
        assert np.isfinite(store).all() and (store != 1).all()


# -- what is refused --------------------


def test_a_changing_batch_size_is_refused_unless_nothing_is_shared() -> None:
    net, x, labels = mlp()
    step = TrainStep(net, cross_entropy(), FNGD(net, 0.1, steps_per_epoch=2))
    train(step, [(x, labels)])
    with pytest.raises(UserError, match=r"3 samples.*8.*drop_remainder"):
        step(Tensor(x[:3]), Tensor(labels[:3]))
    net = mlp()[0]
    errors, _, _ = compare(
        net,
        [(x, labels), (x[:3], labels[:3])],
        lambda n: TrainStep(n, cross_entropy(), FNGD(n, 0.5, momentum=0.0, share="none")),
        lambda o: Fngd(o, lr=0.5, share="none"),
    )
    assert max(errors.values()) < 5e-5, errors


def test_one_graph_without_a_batch_size_is_refused() -> None:
    net, x, labels = mlp()
    step = TrainStep(net, cross_entropy(), FNGD(net, 0.1, steps_per_epoch=2))
    with pytest.raises(UserError, match="batch_size=8"):
        Outer(step)(Tensor(x), Tensor(labels))


class Flattened(nn.Cell):
    """Tokens become rows before the layer sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Dense(6, 3)

    def construct(self, x):
        return self.fc(x.reshape((-1, 6))).reshape((x.shape[0], -1, 3)).mean(1)


def test_a_layer_that_does_not_see_samples_is_refused_by_name() -> None:
    net = Flattened()
    step = TrainStep(net, cross_entropy(), FNGD(net, 0.1, steps_per_epoch=2))
    with pytest.raises(UserError, match=r"layer fc sees 20 rows.*5 sample"):
        step(Tensor(np.ones((5, 4, 6), np.float32)), Tensor(np.zeros(5, np.int32)))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "steps_per_epoch"),
        ({"share": "mean"}, "steps_per_epoch"),
        ({"share": "all"}, "slot, last, mean, none"),
        ({"steps_per_epoch": 0}, "steps_per_epoch=0"),
        ({"steps_per_epoch": 2, "batch_size": 1.5}, "batch_size=1.5"),
        ({"steps_per_epoch": 2, "alpha": 0.0}, "alpha"),
        ({"steps_per_epoch": 2, "gram_memory": 0}, "gram_memory"),
        ({"steps_per_epoch": 2, "damping": 0.1}, "damping"),
        ({"steps_per_epoch": 2, "token_mode": "expand"}, "token_mode"),
        ({"steps_per_epoch": 2, "kl_clip": 0.1}, "FNGD has no option 'kl_clip'"),
        ({"steps_per_epoch": 2, "factor_interval": 3}, "FNGD has no option 'factor_interval'"),
        ({"step_per_epoch": 2}, "did you mean 'steps_per_epoch'"),
    ],
    ids=str,
)
def test_bad_options(options, match) -> None:
    with pytest.raises(UserError, match=match):
        FNGD(mlp()[0], 0.1, **options)


def test_options_of_the_registry() -> None:
    found = optimizer_options("fngd")
    assert {"alpha", "share", "absorb_scale", "steps_per_epoch", "batch_size", "loss_scale"} <= set(
        found
    )
    assert not {"damping", "token_mode", "inverse_interval", "kl_clip"} & set(found)
