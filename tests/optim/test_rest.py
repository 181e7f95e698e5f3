"""``rest``, ``grafting`` and ``momentum_first`` against the float64 oracle, and what follows."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
import steps
from mindspore import Tensor, nn
from oracle.baselines import Eva as EvaOracle
from oracle.baselines import Shampoo as ShampooOracle
from oracle.bridge import oracle_net
from oracle.natural import Fngd as FngdOracle
from oracle.natural import Lngd as LngdOracle
from oracle.nets import batches, mlp, small_conv_net, token_net
from oracle.optimizers import AdamW as AdamWOracle
from oracle.optimizers import Kfac as KfacOracle
from oracle.optimizers import Thor as ThorOracle
from oracle.training import compare, cross_entropy
from steps import Outer, assert_close

from mindspore_thor import FNGD, KFAC, LNGD, THOR, Eva, Shampoo, TrainStep
from mindspore_thor.errors import UserError

REST = {"rest": "adamw", "rest_learning_rate": 0.02}
FIRST = {
    **REST,
    "grafting": "adamw",
    "momentum_first": True,
    "rest_betas": (0.8, 0.95),
    "lr": 0.01,
}
AHEAD = {**FIRST, "grafting": "nadamw", "rest": "nadamw"}
OF = {
    THOR: ThorOracle,
    KFAC: KfacOracle,
    Shampoo: ShampooOracle,
    Eva: EvaOracle,
    FNGD: FngdOracle,
    LNGD: LngdOracle,
}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (KFAC, {**REST, "rest_weight_decay": 0.3, "clip_norm": 0.05, "loss_scale": 64.0}),
        (Shampoo, {"rest": "adamw", "lr": [0.05, 0.03, 0.02, 0.01], "momentum": 0.0}),
        (Eva, {**REST, "rest_learning_rate": [0.04, 0.01], "grafting": "adamw", "lr": 0.01}),
        (FNGD, {**REST, "rest": "nadamw", "steps_per_epoch": 2, "alpha": 0.3}),
        (LNGD, {**REST, "gradients": "true"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_rest_takes_adamw_steps(kind, options) -> None:
    """Biases and BatchNorm, or tables and LayerNorm: with rates, decay and betas of their own."""
    problem = token_net() if kind in (Shampoo, Eva) else small_conv_net()
    options = {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.03, **options}
    options = {"rest_betas": (0.8, 0.95), "rest_epsilon": 1e-4, **options}
    errors, _, step = steps.run(kind, OF[kind], problem, 4, **options)
    assert_close(errors, 1e-3 if kind in (FNGD, LNGD) else 2e-4)
    rest = step.optimizer.rest
    assert 0 < rest.count < len(step.optimizer.weights)
    # What AdamW moves has no momentum besides.
    assert len(step.optimizer.moments if options["momentum"] else ()) in (
        0,
        len(step.optimizer.weights) - rest.count,
    )


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (THOR, {"grafting": "sgd", "split_dim": 5}),
        (THOR, {"grafting": "adamw", **REST, "lr": 0.01, "split_dim": None}),
        (KFAC, {"grafting": "sgd", "factor_interval": 2, "inverse_interval": 3}),
        (Shampoo, {"grafting": "nadamw", "lr": 0.01, "max_preconditioner_dim": 4}),
        (Eva, {"grafting": "sgd", "kl_clip": 0.002}),
        (FNGD, {"grafting": "sgd", "steps_per_epoch": 2, "alpha": 0.3, "loss_scale": 64.0}),
        (FNGD, {"grafting": "adamw", **REST, "lr": 0.01, "share": "none", "alpha": 0.3}),
        (LNGD, {"grafting": "sgd", "gradients": "true", "mu": 1e3}),
        (LNGD, {"grafting": "adamw", **REST, "lr": 0.01, "gradients": "true", "loss_scale": 64.0}),
        (THOR, {**AHEAD, "split_dim": 5, "factor_interval": 2, "inverse_interval": 3}),
        (KFAC, {**FIRST, "method": "inverse"}),
        (Shampoo, {**AHEAD, "max_preconditioner_dim": 4}),
        (FNGD, {**FIRST, "steps_per_epoch": 2, "alpha": 0.3, "loss_scale": 64.0}),
        (LNGD, {**AHEAD, "gradients": "true"}),
    ],
    ids=lambda value: (
        getattr(value, "__name__", "")
        or ("first" if "momentum_first" in value else value.get("grafting", ""))
    ),
)
def test_grafted_directions(kind, options) -> None:
    """Every layer's V has the norm of the other rule's step; a given KL clip comes afterwards."""
    options = {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.03, **options}
    # A net of all kinds of layers where they have rules of their own, or groups are joined and cut.
    if kind in (THOR, Shampoo, FNGD) and "momentum_first" in options:
        problem = token_net()
    else:
        problem = small_conv_net() if kind is LNGD and options["grafting"] == "adamw" else mlp()
    errors, _, _ = steps.run(kind, OF[kind], problem, 5, **options)
    assert_close(errors, 1e-3 if kind in (FNGD, LNGD) else 3e-4)


@pytest.mark.parametrize(
    ("kind", "options", "word"),
    [
        (THOR, {**AHEAD, "rest": "adamw"}, "or 'nadamw' for both"),
        (THOR, {"momentum_first": True}, "give grafting='adamw' and rest='adamw', too"),
        (KFAC, {"momentum_first": True, "grafting": "adamw"}, "rest='adamw', too"),
        (Eva, {"momentum_first": True, "grafting": "sgd", "rest": "adamw"}, "grafting='adamw'"),
        (THOR, {**FIRST, "momentum": 0.9}, r"momentum=0.9, but rest_betas\[0\]=0.8"),
        (THOR, {**FIRST, "momentum_first": 1}, "momentum_first=1: give true or false"),
        (FNGD, {"steps_per_epoch": 1, "momentum_first": True}, "give grafting='adamw'"),
        (LNGD, {**FIRST, "grafting": None}, "give grafting='adamw'"),
    ],
)
def test_momentum_first_where_it_cannot_be(kind, options, word) -> None:
    options = {"learning_rate": 0.01, **{k: v for k, v in options.items() if k != "lr"}}
    with pytest.raises(UserError, match=word):
        kind(mlp()[0], **options)


def test_momentum_first_cannot_be_changed_later() -> None:
    options = {k: v for k, v in FIRST.items() if k != "lr"}
    optimizer = THOR(mlp()[0], 0.01, momentum=0.8, **options)
    with pytest.raises(UserError, match="momentum_first of THOR cannot be changed"):
        optimizer.momentum_first = False
    # AdamW's first moment is the average: there is no other one.
    assert optimizer.heavy_ball == 0.0 and not hasattr(optimizer, "moments")


def _lengths(net: nn.Cell, before: dict[str, np.ndarray]) -> dict[str, float]:
    return {
        p.name: float(np.linalg.norm(p.asnumpy().astype(np.float64) - before[p.name]))
        for p in net.trainable_params()
    }


class Scaled(nn.Cell):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.loss = cross_entropy()

    def construct(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.loss(logits, labels) * self.scale


@pytest.mark.parametrize("scale", [1.0, 1e-25], ids=["usual", "squares are zero in float32"])
def test_the_length_is_sgds(scale) -> None:
    """Without momentum and decay a step of rate 1 is as long as the gradient."""
    net, x, labels = mlp()
    reference = oracle_net(net)
    reference.loss(x, labels)
    expected = [np.linalg.norm(gradient) for gradient in reference.gradients().values()]
    before = {p.name: p.asnumpy().astype(np.float64) for p in net.trainable_params()}
    optimizer = THOR(net, 1.0 / scale, damping=0.03, momentum=0.0, grafting="sgd")
    TrainStep(net, Scaled(scale), optimizer)(Tensor(x), Tensor(labels))
    np.testing.assert_allclose(list(_lengths(net, before).values()), expected, rtol=1e-4)


def test_plain_layers_grafted_on_sgd_are_sgd() -> None:
    """A layer without statistics, or without a gradient, is moved as SGD would, to the bit."""
    net, x, labels = mlp()
    other = mlp()[0]
    optimizer = THOR(net, 0.1, grafting="sgd", factor_interval=10, inverse_interval=10)
    optimizer.next_factor.set_data(Tensor(5, ms.int32))
    optimizer.next_inverse.set_data(Tensor(5, ms.int32))
    step = TrainStep(net, cross_entropy(), optimizer)
    plain = TrainStep(
        other, cross_entropy(), nn.Momentum(other.trainable_params(), 0.1, momentum=0.9)
    )
    for pair in batches(x, labels, 3):
        steps.train(step, [pair])
        steps.train(plain, [pair])
    steps.same(steps.weights(net), steps.weights(other))


def test_grafted_on_adamw_without_curvature_is_adamw_in_length() -> None:
    """1 x d matrices with a plain direction: the step along the gradient has AdamW's norm."""
    net, x, labels = mlp()
    reference = oracle_net(net)
    oracle = AdamWOracle(reference, lr=0.01)
    before = reference.weights()
    oracle.step(x, labels)
    expected = [np.linalg.norm(w - before[name]) for name, w in reference.weights().items()]
    kept = {p.name: p.asnumpy().astype(np.float64) for p in net.trainable_params()}
    optimizer = THOR(net, 0.01, momentum=0.0, grafting="adamw", rest="adamw")
    TrainStep(net, cross_entropy(), optimizer)(Tensor(x), Tensor(labels))
    np.testing.assert_allclose(list(_lengths(net, kept).values()), expected, rtol=1e-4)


@pytest.mark.parametrize("kind", [KFAC, LNGD, FNGD])
def test_one_graph_and_separate_graphs_agree_and_resume(kind, tmp_path) -> None:
    """AdamW's moments and the grafted ones are state: a checkpoint of the step is complete."""
    options = {**REST, "grafting": "adamw"}
    if kind is FNGD:
        options.update(steps_per_epoch=2, batch_size=8)
    else:
        options.update(factor_interval=2, inverse_interval=3)

    def made() -> tuple[nn.Cell, TrainStep]:
        net = mlp()[0]
        return net, TrainStep(net, cross_entropy(), kind(net, 0.01, **options))

    _, x, labels = mlp()
    data = batches(x, labels, 6)
    net, step = made()
    steps.train(step, data[:3])
    path = str(tmp_path / "step.ckpt")
    ms.save_checkpoint(step, path)
    steps.train(step, data[3:])
    other, again = made()
    assert ms.load_checkpoint(path, again)
    steps.train(again, data[3:])
    steps.same(steps.weights(net), steps.weights(other))
    third, whole = made()
    steps.train(Outer(whole), data)
    steps.same(steps.weights(net), steps.weights(third), 1e-5)


@pytest.mark.parametrize("kind", [KFAC, Shampoo, FNGD])
def test_other_training_cells_do_the_same(kind) -> None:
    """MindSpore's own cell in PyNative mode, where nothing is compiled."""
    options = {**REST, **({"batch_size": 8, "share": "none"} if kind is FNGD else {})}
    options["grafting"] = "adamw"
    make = mlp if kind is KFAC else small_conv_net
    net, x, labels = make()
    data = batches(x, labels, 3)
    steps.train(TrainStep(net, cross_entropy(), kind(net, 0.01, **options)), data)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    other = make()[0]
    whole = nn.WithLossCell(other, cross_entropy())
    cell = nn.TrainOneStepCell(whole, kind(other, 0.01, **options)).set_train()
    steps.train(cell, data)
    steps.same(steps.weights(net), steps.weights(other), 2e-5)


def test_micro_batches_move_the_rest_once() -> None:
    """Without BatchNorm the mean over two halves is the whole batch."""
    net, x, labels = mlp()
    data = batches(x, labels, 3)
    options = {**REST, "grafting": "adamw"}
    steps.train(TrainStep(net, cross_entropy(), THOR(net, 0.01, **options)), data)
    other = mlp()[0]
    halves = [(x[i : i + 4], y[i : i + 4]) for x, y in data for i in (0, 4)]
    step = TrainStep(other, cross_entropy(), THOR(other, 0.01, **options), accumulate=2)
    steps.train(step, halves)
    steps.same(steps.weights(net), steps.weights(other), 2e-5)


def test_the_rates_of_both_may_be_set_between_steps() -> None:
    net, x, labels = mlp()
    optimizer = THOR(net, 0.1, rest="adamw", rest_learning_rate=0.02, momentum=0.0)
    step = TrainStep(net, cross_entropy(), optimizer)
    steps.train(step, [(x, labels)])
    optimizer.rest.learning_rate.set_data(Tensor(0.0, ms.float32))
    bias, weight = net[0].bias.asnumpy().copy(), net[0].weight.asnumpy().copy()
    steps.train(step, [(x, labels)])
    np.testing.assert_array_equal(net[0].bias.asnumpy(), bias)
    assert np.abs(net[0].weight.asnumpy() - weight).max() > 0


def test_parameter_groups_keep_their_own_rates_and_decays() -> None:
    """Two groups of half the layers each; the rest follows its group where it has no own rate."""
    net, x, labels = mlp()
    first, second = net[0].trainable_params(), net[1].trainable_params()
    groups = [
        {"params": first, "lr": 0.05, "weight_decay": 0.1},
        {"params": second, "lr": 0.02},
        {"order_params": net.trainable_params()},
    ]
    rates = dict(zip(oracle_net(net).weights(), [0.05, 0.05, 0.02, 0.02]))
    decays = dict(zip(oracle_net(net).weights(), [0.1, 0.1, 0.0, 0.0]))
    errors, _, _ = compare(
        net,
        batches(x, labels, 3),
        lambda n: TrainStep(
            n,
            cross_entropy(),
            THOR(n, 0.02, params=groups, rest="adamw", momentum=0.7, split_dim=4),
        ),
        lambda o: ThorOracle(
            o, lr=0.02, rates=rates, decays=decays, rest="adamw", momentum=0.7, split_dim=4
        ),
    )
    assert_close(errors, 2e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rest": "adam"}, "adamw"),
        ({"grafting": "lion"}, "sgd, adamw, nadamw"),
        ({"rest_learning_rate": 0.1}, "rest='adamw'"),
        ({"rest_weight_decay": 0.1}, "rest='adamw'"),
        ({"rest": "adamw", "rest_betas": (0.9, 1.0)}, "rest_betas"),
        ({"rest": "adamw", "rest_betas": 0.9}, "two numbers"),
        ({"rest": "adamw", "rest_epsilon": 0.0}, "rest_epsilon"),
        ({"rest": "adamw", "rest_weight_decay": -0.1}, "rest_weight_decay"),
        ({"rest": "adamw", "rest_learning_rate": []}, "empty"),
    ],
)
def test_bad_values_are_refused_by_name(options, words) -> None:
    with pytest.raises(UserError, match=words):
        THOR(mlp()[0], 0.1, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": 0.1}, "no option 'lr': did you mean 'learning_rate'[?]$"),
        ({"dampening": 0.1}, "did you mean 'damping'[?]$"),
        ({"zzz": 1}, r"it has net, learning_rate, .* and \d+ more \(docs/api.md\)$"),
    ],
)
def test_unknown_keywords_are_told_what_there_is(options, words) -> None:
    with pytest.raises(UserError, match=words):
        THOR(mlp()[0], 0.1, **options)
