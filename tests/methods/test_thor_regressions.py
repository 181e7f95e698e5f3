"""What MindSpore's own nn.thor gets wrong, each as a test of ours; and bad arguments.

The list is that of 2.10's nn.thor: conv factors from batch-averaged patches, A of a Dense layer
divided by its width, dropped dilation, groups, bias and activation, the prefix "wide", weight
decay on BatchNorm, a learning rate that must be a Tensor, no evaluation during training, no
training where an epoch is shorter than the interval (test_intervals.py), no parameter groups
(test_thor_oracle.py).
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from oracle.bridge import randomise
from oracle.nets import conv_net, mlp
from oracle.training import cross_entropy

from mindspore_thor import KFAC, THOR, TrainStep, UserError


class LinearLoss(nn.Cell):
    """Mean over samples of <output, c>."""

    def construct(self, output, c):
        return (output * c).sum() / output.shape[0]


def test_conv_factors_do_not_average_over_the_batch_first() -> None:
    """x and -x: their mean patch is zero, their second moment is not."""
    rng = np.random.default_rng(0)
    half = rng.standard_normal((1, 2, 3, 3)).astype(np.float32)
    x = np.concatenate([half, -half])
    c = np.ones((2, 2, 3, 3), np.float32)
    net = nn.SequentialCell(nn.Conv2d(2, 2, 1, pad_mode="valid"))
    optimizer = THOR(net, 0.1, split_dim=None)
    TrainStep(net, LinearLoss(), optimizer)(Tensor(x), Tensor(c))
    rows = half.reshape(2, 9).astype(np.float64)
    np.testing.assert_allclose(
        optimizer.curvatures[0].factor_a().asnumpy()[0, 0], rows @ rows.T / 9, rtol=1e-5
    )


def test_dense_factor_is_divided_by_the_batch_not_by_the_width() -> None:
    x = np.ones((4, 3), np.float32) * 2
    net = nn.SequentialCell(nn.Dense(3, 2))
    optimizer = THOR(net, 0.1)
    TrainStep(net, LinearLoss(), optimizer)(Tensor(x), Tensor(np.full((4, 2), 3.0, np.float32)))
    np.testing.assert_allclose(
        optimizer.curvatures[0].factor_a().asnumpy()[0, 0], np.full((3, 3), 4.0), rtol=1e-6
    )
    np.testing.assert_allclose(
        optimizer.curvatures[0].factor_g().asnumpy()[0, 0], np.full((2, 2), 9.0), rtol=1e-6
    )


class Odd(nn.Cell):
    """Declared in another order than used, one name with "wide", settings that nn.thor drops."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Dense(4, 3, activation="sigmoid")
        self.wide_conv = nn.Conv2d(
            4, 4, 3, pad_mode="pad", padding=(2, 1, 0, 2), dilation=(2, 1), group=2, has_bias=True
        )
        self.first = nn.Conv2d(2, 4, 3, stride=2, pad_mode="valid", has_bias=True)
        self.norm = nn.BatchNorm2d(4)
        self.table = nn.Embedding(5, 4, padding_idx=2)
        self.first.weight.name = "zz"
        self.last.weight.name = "aa"

    def construct(self, x, ids):
        x = self.norm(self.wide_conv(self.first(x))).mean((2, 3)) + self.table(ids).mean(1)
        return self.last(x)


def odd() -> tuple[Odd, Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(1)
    x = Tensor(rng.standard_normal((6, 2, 9, 7)).astype(np.float32))
    ids = Tensor(rng.integers(0, 5, (6, 3)).astype(np.int32))
    return randomise(Odd(), 1), x, ids, Tensor(rng.integers(0, 3, 6).astype(np.int32))


def test_the_converted_net_is_the_same_function() -> None:
    net, x, ids, _ = odd()
    plain = net(x, ids).asnumpy()
    optimizer = THOR(net, 0.1)
    np.testing.assert_array_equal(net(x, ids).asnumpy(), plain)
    covered = {row.layer for row in optimizer.layer_report() if row.covered}
    assert covered == {"last", "wide_conv", "first", "table"}


def normed() -> tuple[nn.Cell, Tensor, Tensor]:
    rng = np.random.default_rng(2)
    x = Tensor(rng.standard_normal((6, 2, 4, 4)).astype(np.float32))
    labels = Tensor(rng.integers(0, 4, 6).astype(np.int32))
    layers = (
        nn.Conv2d(2, 4, 4, pad_mode="valid", has_bias=True),
        nn.BatchNorm2d(4),
        nn.Flatten(),
    )
    return randomise(nn.SequentialCell(*layers), 2), x, labels


def test_weight_decay_spares_norms_and_biases() -> None:
    moved = []
    for decay in (0.0, 0.5):
        net, x, labels = normed()
        before = {p.name: p.asnumpy().copy() for p in net.trainable_params()}
        step = TrainStep(net, cross_entropy(), THOR(net, 1.0, momentum=0.0, weight_decay=decay))
        step(x, labels)
        moved.append({p.name: before[p.name] - p.asnumpy() for p in net.trainable_params()})
    assert len(before) == 4
    for name, value in moved[0].items():
        decayed = 0.5 * before[name] if before[name].ndim > 1 else 0.0
        np.testing.assert_allclose(moved[1][name] - value, decayed, atol=2e-6, err_msg=name)


def test_evaluation_between_two_steps() -> None:
    """Evaluation sees the running statistics and leaves the training as it would have been."""
    net, x, labels = normed()
    step = TrainStep(net, cross_entropy(), THOR(net, 0.1, factor_interval=2, inverse_interval=2))
    start = {k: p.asnumpy().copy() for k, p in step.parameters_dict().items()}
    results = []
    for evaluate in (False, True):
        for k, p in step.parameters_dict().items():
            ops.assign(p, Tensor(start[k]))
        step(x, labels)
        if evaluate:
            net.set_train(False)
            plain = normed()[0]
            ms.load_param_into_net(plain, {p.name: p for p in net.get_parameters()})
            plain.set_train(False)
            np.testing.assert_allclose(net(x).asnumpy(), plain(x).asnumpy(), rtol=1e-6)
        step(x, labels)
        results.append([p.asnumpy().copy() for p in net.get_parameters()])
    for a, b in zip(*results):
        np.testing.assert_array_equal(a, b)
    assert any((a != start[p.name]).any() for a, p in zip(results[0], net.get_parameters()))


@pytest.mark.parametrize(
    "rate",
    [0.1, [0.1, 0.1], nn.ExponentialDecayLR(0.1, 1.0, 1), Tensor(0.1, ms.float32)],
    ids=lambda r: type(r).__name__,
)
def test_learning_rate_of_any_kind_is_the_same_number(rate) -> None:
    net, x, labels = mlp(batch=4, sizes=(3, 2))
    before = net[0].bias.asnumpy().copy()
    TrainStep(net, cross_entropy(), THOR(net, rate, momentum=0.0))(Tensor(x), Tensor(labels % 2))
    logits = (
        x.astype(np.float64) @ randomise(mlp(sizes=(3, 2))[0], 3)[0].weight.asnumpy().T + before
    )
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    gradient = (p - np.eye(2)[labels % 2]).mean(0)
    np.testing.assert_allclose(before - net[0].bias.asnumpy(), 0.1 * gradient, atol=1e-6)


def test_it_is_an_optimizer_of_mindspore() -> None:
    net = conv_net()[0]
    for optimizer in (THOR(net, 0.1), KFAC(net, 0.1)):
        assert isinstance(optimizer, nn.Optimizer)
        assert [p.name for p in optimizer.weights] == [p.name for p in net.trainable_params()]


# -- bad arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [THOR, KFAC])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("damping", -0.03),
        ("damping", 0),
        ("damping", float("nan")),
        ("damping", "0.03"),
        ("damping", True),
        ("momentum", 1.5),
        ("momentum", 1),
        ("momentum", -0.1),
        ("weight_decay", -1e-4),
        ("weight_decay", None),
        ("factor_interval", 0),
        ("inverse_interval", -2),
        ("damping_mode", "root"),
        ("loss_scale", 0),
        ("clip_norm", 0),
        ("clip_norm", -1.0),
        ("token_mode", "flatten"),
        ("token_mode", "share"),
        ("split_dimm", 4),
        ("factor_interval", [(0, 5), (2.5, 3)]),
        ("max_failures", 0),
    ],
)
def test_bad_values_are_refused_by_name(method, name, value) -> None:
    with pytest.raises(UserError, match=name) as caught:
        method(nn.Dense(2, 2), 0.1, **{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("split_dim", 0),
        ("split_dim", -1),
        ("split_dim", 1.5),
        ("split_dim", True),
        ("trace_form", "sum"),
        ("trace_baseline", "first"),
        ("trace_thresholds", (0.001, 0.01)),
        ("trace_thresholds", 0.01),
        ("trace_thresholds", None),
        ("batch_size", 0),
    ],
)
def test_bad_values_of_thor(name, value) -> None:
    with pytest.raises(UserError, match=name):
        THOR(nn.Dense(2, 2), 0.1, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("factor_decay", 1.0),
        ("factor_decay", -0.1),
        ("kl_clip", 0),
        ("kl_clip", -1),
        ("method", "svd"),
    ],
)
def test_bad_values_of_kfac(name, value) -> None:
    with pytest.raises(UserError, match=name):
        KFAC(nn.Dense(2, 2), 0.1, **{name: value})


@pytest.mark.parametrize("method", [THOR, KFAC])
def test_the_net_must_be_a_cell(method) -> None:
    with pytest.raises(UserError, match="net"):
        method(nn.Dense(2, 2).trainable_params(), 0.1)


@pytest.mark.parametrize("rate", [-0.1, "fast", None, []], ids=str)
def test_bad_learning_rates(rate) -> None:
    with pytest.raises(UserError, match="learning_rate"):
        THOR(nn.Dense(2, 2), rate)


def test_a_net_with_nothing_to_train() -> None:
    net = nn.Dense(2, 2)
    for p in net.get_parameters():
        p.requires_grad = False
    with pytest.raises(UserError, match="train"):
        THOR(net, 0.1)
