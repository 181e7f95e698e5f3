"""Which layers take part, and that the rest visibly does not: subclasses, frozen, tied, reused."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from oracle import curvature as c
from oracle.bridge import randomise
from oracle.layers import Conv
from oracle.training import cross_entropy

from mindspore_thor import THOR, TrainStep


def reasons(optimizer) -> dict[str, tuple[bool, str]]:
    return {row.layer: (row.covered, row.reason) for row in optimizer.layer_report()}


def gradients(net: nn.Cell, x: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    whole = nn.WithLossCell(net, cross_entropy())
    value, found = ms.value_and_grad(whole, None, net.trainable_params())(Tensor(x), Tensor(labels))
    return [value.asnumpy()] + [g.asnumpy() for g in found]


class Named(nn.Dense):
    """A subclass without a construct of its own."""


class Doubled(nn.Dense):
    """A subclass that reaches the layer's operator through super()."""

    def construct(self, x):
        return 2.0 * super().construct(x)


class Direct(nn.Dense):
    """A subclass that calls the layer's operator itself."""

    def construct(self, x):
        return self.matmul(x, self.weight) * 3.0


class Foreign(nn.Dense):
    """A subclass whose construct goes around the layer's operator."""

    def construct(self, x):
        return ops.matmul(x, self.weight.T)


class Zoo(nn.Cell):
    """Subclasses, user-given names, a name with "wide", a frozen layer, a frozen bias."""

    def __init__(self) -> None:
        super().__init__()
        self.wide_part = Named(4, 5)
        self.doubled = Doubled(5, 6)
        self.direct = Direct(6, 5, has_bias=False)
        self.foreign = Foreign(5, 4, has_bias=False)
        self.fc = nn.Dense(4, 6)
        self.fc2 = nn.Dense(6, 3)
        self.wide_part.weight.name = "my.favourite.matrix"
        self.fc.weight.requires_grad = False
        self.fc2.bias.requires_grad = False

    def construct(self, x):
        x = self.direct(self.doubled(self.wide_part(x)))
        return self.fc2(self.fc(self.foreign(x)))


def test_subclasses_names_and_frozen_parameters() -> None:
    """V of every covered layer, with g taken from the unconverted net's own chain rule."""
    net = randomise(Zoo(), 5)
    net.fc.weight.set_data(
        Tensor(np.random.default_rng(8).standard_normal((6, 4)).astype(np.float32) / 2)
    )
    net.fc2.bias.set_data(Tensor(np.zeros(3, np.float32)))
    rng = np.random.default_rng(1)
    x = rng.standard_normal((7, 4)).astype(np.float32)
    labels = rng.integers(0, 3, 7).astype(np.int32)
    w = {name: p.asnumpy().astype(np.float64) for name, p in net.parameters_and_names()}
    # Forward by hand: every layer's input a and the factor behind its matrix product.
    a0 = x.astype(np.float64)
    a1 = a0 @ w["wide_part.weight"].T + w["wide_part.bias"]
    a2 = 2 * (a1 @ w["doubled.weight"].T + w["doubled.bias"])
    a3 = 3 * (a2 @ w["direct.weight"].T)
    a4 = a3 @ w["foreign.weight"].T
    a5 = a4 @ w["fc.weight"].T + w["fc.bias"]
    logits = a5 @ w["fc2.weight"].T
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    g5 = (p - np.eye(3)[labels]) / 7
    g4 = g5 @ w["fc2.weight"]
    g3 = g4 @ w["fc.weight"]
    g2 = 3 * (g3 @ w["foreign.weight"])
    g1 = 2 * (g2 @ w["direct.weight"])
    g0 = g1 @ w["doubled.weight"]
    expected = {}
    for name, a, g in (
        ("wide_part", a0, g0),
        ("doubled", a1, g1),
        ("direct", a2, g2),
        ("fc2", a5, g5),
    ):
        factor_a, factor_g = a.T @ a / 7, 7 * g.T @ g
        ia, ig = c.inverses(factor_a[None], factor_g[None], 1.0, 0.03, "sqrt", None)
        expected[name] = ig[0] @ (g.T @ a) @ ia[0]
    expected["foreign"] = g3.T @ a3
    optimizer = THOR(net, 1.0, momentum=0.0)
    found = reasons(optimizer)
    assert {k: v[0] for k, v in found.items()} == {
        "wide_part": True,
        "doubled": True,
        "direct": True,
        "foreign": False,
        "fc": False,
        "fc2": True,
    }
    assert "not trained" in found["fc"][1]
    assert "construct" in found["foreign"][1]
    TrainStep(net, cross_entropy(), optimizer)(Tensor(x), Tensor(labels))
    for name, v in expected.items():
        moved = w[f"{name}.weight"] - getattr(net, name).weight.asnumpy()
        np.testing.assert_allclose(
            moved, v, atol=1e-4 * np.abs(v).max(), err_msg=name
        )  # six layers deep
    assert (net.fc.weight.asnumpy() == w["fc.weight"]).all()
    np.testing.assert_allclose(w["fc.bias"] - net.fc.bias.asnumpy(), g4.sum(0), atol=1e-6)


class Tied(nn.Cell):
    """Two cells share one weight, and one cell is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Dense(4, 4, has_bias=False)
        self.second = nn.Dense(4, 4, has_bias=False)
        self.second.weight = self.first.weight
        self.last = nn.Dense(4, 3)

    def construct(self, x):
        return self.last(self.second(self.first(x)))


def test_a_tied_weight_falls_back_visibly() -> None:
    net = randomise(Tied(), 3)
    optimizer = THOR(net, 1.0, momentum=0.0)
    found = reasons(optimizer)
    assert not found["first"][0] and "shared with second" in found["first"][1]
    assert found["last"][0]
    x = np.random.default_rng(2).standard_normal((5, 4)).astype(np.float32)
    labels = np.array([0, 1, 2, 0, 1], np.int32)
    plain = gradients(net, x, labels)[1]
    before = net.first.weight.asnumpy().copy()
    TrainStep(net, cross_entropy(), optimizer)(Tensor(x), Tensor(labels))
    np.testing.assert_allclose(before - net.first.weight.asnumpy(), plain, atol=1e-6)


class Twice(nn.Cell):
    """A layer that is used on two inputs of different size in one forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, pad_mode="valid")
        self.head = nn.Dense(3, 3)

    def construct(self, x):
        small = x[:, :, :4, :4]
        return self.head(self.conv(x).mean((2, 3)) + 2.0 * self.conv(small).mean((2, 3)))


def test_a_layer_used_twice_counts_the_positions_of_both_uses() -> None:
    """F ~= (T1 + T2) A_mean (x) G_mean with the means over both uses."""
    net = randomise(Twice(), 3)
    rng = np.random.default_rng(4)
    x = rng.standard_normal((5, 2, 6, 5)).astype(np.float32)
    labels = rng.integers(0, 3, 5).astype(np.int32)
    weight = net.conv.weight.asnumpy().astype(np.float64)
    uses = [Conv(weight), Conv(weight)]
    y0, y1 = (
        uses[0].forward(x.astype(np.float64)),
        uses[1].forward(x[:, :, :4, :4].astype(np.float64)),
    )
    head = net.head.weight.asnumpy().astype(np.float64)
    logits = (y0.mean((2, 3)) + 2 * y1.mean((2, 3))) @ head.T + net.head.bias.asnumpy()
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    g = (p - np.eye(3)[labels]) / 5 @ head
    uses[0].backward(np.broadcast_to((g / 12)[:, :, None, None], y0.shape))
    uses[1].backward(np.broadcast_to((2 * g / 4)[:, :, None, None], y1.shape))
    a, gg, t = (sum(part) for part in zip(*(c.factors(use) for use in uses)))
    assert t == 16
    ia, ig = c.inverses(a / 2, gg / 2, t, 0.03, "sqrt", None)
    gradient = uses[0].d["weight"] + uses[1].d["weight"]
    expected = (ig[0] @ gradient.reshape(3, -1) @ ia[0]).reshape(weight.shape)
    TrainStep(net, cross_entropy(), THOR(net, 1.0, momentum=0.0))(Tensor(x), Tensor(labels))
    moved = weight - net.conv.weight.asnumpy()
    np.testing.assert_allclose(moved, expected, atol=1e-5 * np.abs(expected).max())


class Scaled(nn.Embedding):
    """A subclass that scales what it looks up."""

    def construct(self, ids):
        return super().construct(ids) * 2.0


def test_embedding_subclass_with_a_construct_of_its_own_falls_back_visibly() -> None:
    """Inside such a construct the batch size cannot be told: no other statistics, silently."""
    net = nn.SequentialCell(Scaled(4, 3), nn.Flatten(), nn.Dense(9, 2))
    found = reasons(THOR(net, 0.1))
    assert not found["0"][0] and "construct" in found["0"][1]
    assert found["2"][0]


class Functional(nn.Cell):
    """A net with a bare parameter beside its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Dense(4, 3)
        self.scale = Parameter(Tensor(np.ones(3, np.float32)), name="scale")

    def construct(self, x):
        return self.fc(x) * self.scale


def test_a_bare_parameter_is_in_the_table_and_gets_its_plain_gradient() -> None:
    net = randomise(Functional(), 6)
    x = np.random.default_rng(2).standard_normal((5, 4)).astype(np.float32)
    labels = np.array([0, 1, 2, 0, 1], np.int32)
    optimizer = THOR(net, 1.0, momentum=0.0)
    assert [(row.layer, row.covered) for row in optimizer.layer_report()] == [
        ("Functional", False),
        ("fc", True),
    ]
    plain = dict(zip((p.name for p in net.trainable_params()), gradients(net, x, labels)[1:]))
    before = net.scale.asnumpy().copy()
    TrainStep(net, cross_entropy(), optimizer)(Tensor(x), Tensor(labels))
    np.testing.assert_allclose(before - net.scale.asnumpy(), plain["scale"], atol=1e-6)
