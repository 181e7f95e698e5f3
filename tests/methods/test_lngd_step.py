"""LNGD in training: resume, other training cells, failures, what is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
from graphs import compiled_graphs, operators
from mindspore import Tensor, nn
from oracle.bridge import randomise
from oracle.nets import Problem, batches, mlp, small_conv_net
from oracle.training import cross_entropy
from steps import Outer, train

from mindspore_thor import LNGD, TrainStep, UserError
from mindspore_thor.errors import TrainingError
from mindspore_thor.optim import optimizer_options

OPTIONS = {"mu": 1e-3, "factor_interval": 3, "inverse_interval": 2}


def small_net() -> Problem:
    return small_conv_net(nn.ReLU)


def test_all_phases_in_one_graph_give_the_same_weights() -> None:
    """Steps 0, 3 collect and 0, 2, 4 invert: together, apart, and neither; same samples.

    The fourth batch is bad: neither its factors nor its BatchNorm statistics leave a trace, and the
    collection that was due happens a step later.
    """
    net, x, labels = small_net()
    data = batches(x, labels, 6)
    bad = data[3][0].copy()
    bad[0, 0, 0, 0] = np.nan
    data[3] = (bad, data[3][1])
    step = TrainStep(net, cross_entropy(), LNGD(net, 0.05, **OPTIONS))
    losses = train(step, data)
    assert int(step.skipped.asnumpy()) == 1
    assert int(step.optimizer.next_factor.asnumpy()) == 7  # collected at 0 and at 4
    assert int(step.optimizer.curvatures[0].counts.asnumpy()[0]) == 3
    other = small_net()[0]
    start = [p.asnumpy().copy() for p in other.get_parameters()]
    cell = Outer(TrainStep(other, cross_entropy(), LNGD(other, 0.05, **OPTIONS)))
    np.testing.assert_allclose(train(cell, data), losses, rtol=1e-4)
    for a, b, c in zip(net.get_parameters(), other.get_parameters(), start):
        assert np.abs(a.asnumpy() - c).max() > 1e-3
        np.testing.assert_allclose(a.asnumpy(), b.asnumpy(), atol=2e-5, err_msg=a.name)


def test_batch_norm_sees_every_batch_once() -> None:
    """The pass before the step measures, and leaves the running statistics as they were."""
    net, x, labels = small_net()
    step = TrainStep(net, cross_entropy(), LNGD(net, 0.1))
    running = [net[1].moving_mean, net[1].moving_variance]
    before = [p.asnumpy().copy() for p in running]
    assert bool(step.measure.compile_and_run(Tensor(x), Tensor(labels)).asnumpy())
    assert (step.optimizer.curvatures[0].statistics.asnumpy() != 0).any()
    for a, p in zip(before, running):
        np.testing.assert_array_equal(a, p.asnumpy())


def test_a_training_cell_without_the_first_pass_is_refused() -> None:
    """Model(net, loss_fn, optimizer) trains with this cell of MindSpore's."""
    net, x, labels = mlp()
    whole = nn.WithLossCell(net, cross_entropy())
    with pytest.raises(UserError, match=r"TrainStep\(net, loss_fn, optimizer\)"):
        nn.TrainOneStepCell(whole, LNGD(net, 0.1)).set_train()(Tensor(x), Tensor(labels))


PROOF = """
from mindspore import Tensor
from test_lngd_step import LNGD, TrainStep, cross_entropy, small_net, train
from mindspore_thor.optim import create_optimizer
net, x, labels = small_net()
train(TrainStep(net, cross_entropy(), create_optimizer("sgd", net, 0.1)), [(x, labels)])
net = small_net()[0]
train(TrainStep(net, cross_entropy(), LNGD(net, 0.1)), [(x, labels)])
net = small_net()[0]
step = TrainStep(net, cross_entropy(), LNGD(net, 0.1, gradients="true", fisher="batch"))
step.measure.compile_and_run(Tensor(x), Tensor(labels))
step.plain_step(Tensor(x), Tensor(labels))
"""


def test_what_the_graphs_hold(tmp_path) -> None:
    """The curvature needs no backward pass; a plain step neither statistics nor an inversion."""
    texts = compiled_graphs(PROOF, tmp_path)
    sgd, measure, refresh, plain, update, true_measure, cheap, _ = map(operators, texts)
    backward = ("Conv2DBackpropInput", "Conv2DBackpropFilter", "BatchNormGrad", "BiasAddGrad")
    # The tools see what they look for: SGD and LNGD-lr do run the loss's backward pass.
    assert all(sgd[name] > 0 for name in backward)
    assert true_measure["Conv2DBackpropInput"] == 1 and true_measure["BatchNormGrad"] == 1
    assert "is_grad: Bool(1)" in texts[0] and "is_grad: Bool(1)" in texts[5]
    # The measuring pass: forward, patches and moments, and no more.
    assert measure["Conv2D"] == measure["Im2Col"] == 2 and measure["BatchNorm"] == 1
    assert measure["MatMul"] == 1 and measure["ApplyMomentum"] == 0
    assert all(measure[name] == 0 for name in backward)
    assert "is_grad: Bool(1)" not in texts[1]
    # A plain step: SGD's products and convolutions, for every layer one product of D with Phi^-1,
    # one more map of x for d^T F d, and no copy of the inverses.
    assert refresh["MatrixInverse"] > 0
    assert update["Switch"] == sgd["Switch"] and update["BatchMatMul"] == 0
    for step, extra in ((plain, 1), (cheap, 0)):
        assert step["MatrixInverse"] == step["Im2Col"] == 0
        assert step["Switch"] == 0 and step["BatchMatMul"] == 3
        assert step["Conv2D"] == sgd["Conv2D"] + 2 * extra
        assert step["MatMul"] == sgd["MatMul"] + extra
        for name in ("Conv2DBackpropInput", "Conv2DBackpropFilter"):
            assert step[name] == sgd[name]
    for text in (texts[3], texts[6]):
        # Counters are copied, a few numbers a layer.
        assert moved(text) <= {"lngd.0.weight.outcomes.counts"}
    for text in texts:
        assert "PyExecute" not in text and "PyInterpret" not in text


def moved(text: str) -> set[str]:
    """The parameters of a graph that are copied as a whole."""
    loads = dict(re.findall(r"(%\d+)\([^)]*\) = Load\(%para\d+_([\w.]+)", text))
    return {loads.get(value, value) for value in re.findall(r"= TensorMove\((%\d+)\)", text)}


def test_the_seed_matters() -> None:
    """Other samples enter the factors; test_resume.py shows that one seed repeats its samples."""
    found = []
    for seed in (1, 2):
        net, x, labels = mlp()
        step = TrainStep(net, cross_entropy(), LNGD(net, 0.05, seed=seed))
        step.measure.compile_and_run(Tensor(x), Tensor(labels))
        found.append([c.statistics.asnumpy() for c in step.optimizer.curvatures])
    for one, two in zip(*found):
        assert np.isfinite(one).all() and (one != two).any()


def test_inversions_that_fail_keep_the_last_good_one_then_stop_training() -> None:
    net, x, labels = mlp()
    optimizer = LNGD(net, 0.01, factor_interval=1000, max_failures=2, mu=0.1)
    step = TrainStep(net, cross_entropy(), optimizer)
    train(step, [(x, labels)])
    curvature = optimizer.curvatures[0]
    broken = curvature.statistics.asnumpy().copy()
    broken[0] = np.nan
    good = curvature.inverse_phi.asnumpy().copy()
    curvature.statistics.set_data(Tensor(broken))
    assert np.isfinite(train(step, [(x, labels)])).all()
    np.testing.assert_array_equal(curvature.inverse_phi.asnumpy(), good)
    assert optimizer.failed_inversions == 1
    with pytest.raises(TrainingError, match="layer 0"):
        train(step, [(x, labels)])


def test_a_dead_layer_does_not_poison_the_step() -> None:
    """All of its ReLUs are off: no samples, no gradient, and no NaN anywhere."""
    net = nn.SequentialCell(nn.Dense(4, 3), nn.ReLU(), nn.Dense(3, 2))
    randomise(net, 1)
    net[0].bias.set_data(Tensor(np.full(3, -100, np.float32)))
    before = net[0].weight.asnumpy()
    rng = np.random.default_rng(0)
    x, labels = (
        rng.standard_normal((6, 4)).astype(np.float32),
        np.array([0, 1, 0, 1, 1, 1], np.int32),
    )
    step = TrainStep(net, cross_entropy(), LNGD(net, 0.1, mu=0.0))
    assert np.isfinite(train(step, [(x, labels)] * 3)).all()
    assert int(step.skipped.asnumpy()) == 0
    np.testing.assert_array_equal(net[0].weight.asnumpy(), before)
    for p in step.get_parameters():
        assert np.isfinite(p.asnumpy()).all(), p.name


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sampling": "uniform"}, "gaussian, analytic"),
        ({"gradients": "exact"}, "sampled, true"),
        ({"fisher": "none"}, "per_sample, batch"),
        ({"mu": -1.0}, "mu"),
        ({"rate_samples": 0}, "rate_samples"),
        ({"nu1": 0.1, "nu2": 0.01}, "nu1"),
        ({"ema_old_weight": 1.0}, "ema_old_weight"),
        ({"inverse_interval": 0}, "inverse_interval"),
        ({"damping": 0.1}, "damping"),
        ({"token_mode": "expand"}, "token_mode"),
        ({"inverse_share": "some"}, "inverse_share"),
        ({"seed": "q"}, "seed='q'"),
    ],
    ids=str,
)
def test_bad_options(options, match) -> None:
    with pytest.raises(UserError, match=match):
        LNGD(mlp()[0], 0.1, **options)


def test_an_unquoted_true_means_the_gradients_of_the_loss() -> None:
    """YAML, and so the command line, reads `gradients: true` as a boolean."""
    report = LNGD(mlp()[0], 0.1, gradients=True).layer_report()
    assert {row.reason for row in report if row.covered} == {"gradients of the loss"}


def test_options_of_the_registry() -> None:
    found = optimizer_options("lngd")
    assert found["mu"].default == 1e-7 and found["ema_old_weight"].default == 0.95
    assert {"factor_interval", "inverse_interval", "seed", "max_failures"} <= set(found)
    assert not {"damping", "token_mode", "kl_clip"} & set(found)
