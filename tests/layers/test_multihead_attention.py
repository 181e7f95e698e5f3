"""``nn.MultiheadAttention`` is what it is made of: maps of query, key and value, and one more."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from oracle.bridge import randomise
from oracle.training import cross_entropy

from mindspore_thor import THOR, TrainStep
from mindspore_thor.methods import CLASSES

WIDTH, HEADS, SAMPLES, LENGTH = 4, 2, 3, 5


class Maps(nn.Cell):
    """Attention of Dense layers, [N, S, WIDTH], with one for query, key and value, or one each."""

    def __init__(self, joined: bool) -> None:
        super().__init__()
        self.joined = joined
        shapes = [3 * WIDTH] if joined else [WIDTH] * 3
        self.maps = nn.CellList([nn.Dense(WIDTH, d_out) for d_out in shapes])
        self.out = nn.Dense(WIDTH, WIDTH)

    def construct(self, x, mask):
        n, length, _ = x.shape
        found = [layer(x) for layer in self.maps]
        rows = found[0] if self.joined else ops.concat(found, 2)
        shape = (n, length, 3, HEADS, WIDTH // HEADS)
        q, k, v = ops.unstack(ops.transpose(rows.reshape(shape), (2, 0, 3, 1, 4)))
        scores = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / (WIDTH // HEADS) ** 0.5
        scores = ops.where(mask.reshape((n, 1, 1, length)), -1e30, scores)
        out = ops.transpose(ops.matmul(ops.softmax(scores, -1), v), (0, 2, 1, 3))
        return self.out(out.reshape(x.shape))


class Net(nn.Cell):
    """Mean logits of the tokens that ``mask`` [N, S] does not hide, of x [N, S, WIDTH]."""

    def __init__(self, attention: nn.Cell) -> None:
        super().__init__()
        self.attention = attention
        self.head = nn.Dense(WIDTH, WIDTH)  # as many classes: one group with the others
        self.own = isinstance(attention, Maps)
        self.turned = not self.own and not attention.batch_first

    def construct(self, x, mask):
        if self.own:
            y = self.attention(x, mask)
        elif self.turned:
            x = ops.transpose(x, (1, 0, 2))
            y = ops.transpose(self.attention(x, x, x, mask)[0], (1, 0, 2))
        else:
            y = self.attention(x, x, x, mask)[0]
        real = 1.0 - mask.astype(ms.float32)
        logits = (self.head(ops.tanh(y)) * real.expand_dims(2)).sum(1)
        return logits / real.sum(1, keepdims=True)


def equal_nets(batch_first: bool, joined: bool) -> tuple[Net, Net]:
    net = Net(nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first))
    net = randomise(net, 3)
    other = Net(Maps(joined))
    attention, maps = net.attention, other.attention
    count = len(maps.maps)
    weights = np.split(attention.in_proj_weight.asnumpy(), count)
    biases = np.split(attention.in_proj_bias.asnumpy(), count)
    for layer, weight, bias in zip(maps.maps, weights, biases):
        layer.weight.set_data(Tensor(weight.copy()))
        layer.bias.set_data(Tensor(bias.copy()))
    for one, equal in ((attention.out_proj, maps.out), (net.head, other.head)):
        equal.weight.set_data(Tensor(one.weight.asnumpy().copy()))
        equal.bias.set_data(Tensor(one.bias.asnumpy().copy()))
    return net, other


def values_of(net: Net) -> list[np.ndarray]:
    """In-projection, its bias, the other weights and biases."""
    maps, last = net.attention, net.head
    if net.own:
        weight = np.concatenate([layer.weight.asnumpy() for layer in maps.maps])
        bias = np.concatenate([layer.bias.asnumpy() for layer in maps.maps])
        out = maps.out
    else:
        weight, bias = maps.in_proj_weight.asnumpy(), maps.in_proj_bias.asnumpy()
        out = maps.out_proj
    more = [p.asnumpy() for layer in (out, last) for p in (layer.weight, layer.bias)]
    return [weight.copy(), bias.copy(), *(value.copy() for value in more)]


@pytest.mark.parametrize(
    ("method", "batch_first", "joined", "options"),
    [
        # A layer of three maps has one trace: let all be accepted.
        ("THOR", True, False, {"token_mode": "reduce", "trace_thresholds": (0.0, 0.0)}),
        ("KFAC", False, False, {}),
        # Its weights are of a layer's whole gradient, which self-attention's one Dense has, too.
        ("FNGD", False, True, {"share": "none"}),
    ],
)
def test_it_trains_as_the_dense_layers_that_it_is(method, batch_first, joined, options) -> None:
    nets = equal_nets(batch_first, joined)
    before = values_of(nets[0])
    rng = np.random.default_rng(2)
    x = rng.standard_normal((SAMPLES, LENGTH, WIDTH)).astype(np.float32)
    mask = np.arange(LENGTH) >= np.array([[LENGTH], [3], [4]])
    labels = rng.integers(0, WIDTH, SAMPLES).astype(np.int32)
    moved = []
    for net in nets:
        optimizer = CLASSES[method](net, 0.1, **options)
        step = TrainStep(net, cross_entropy(), optimizer)
        for _ in range(2):
            step(Tensor(x), Tensor(mask), Tensor(labels))
        assert all(row.covered for row in optimizer.layer_report())
        moved.append([new - old for new, old in zip(values_of(net), before)])
    for found, expected in zip(*moved):
        assert np.abs(expected).max() > 0
        # The keys' bias moves no softmax: its gradient is rounding.
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("batch_first", [True, False])
def test_with_capture_its_outputs_are_those_without(batch_first) -> None:
    """For every mask that it knows, and for lengths that are left to MindSpore's own code."""
    net = nn.SequentialCell(nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first))
    attention = randomise(net, 5)[0].set_train(False)
    rng = np.random.default_rng(6)

    def tokens(length: int) -> Tensor:
        shape = (SAMPLES, length) if batch_first else (length, SAMPLES)
        return Tensor(rng.standard_normal((*shape, WIDTH)).astype(np.float32))

    q, k, v, short = tokens(LENGTH), tokens(LENGTH), tokens(LENGTH), tokens(2)
    padding = Tensor(np.arange(LENGTH) >= np.array([[LENGTH], [3], [4]]))
    causal = Tensor(np.triu(np.ones((LENGTH, LENGTH), bool), 1))
    bias = Tensor(rng.standard_normal((SAMPLES * HEADS, LENGTH, LENGTH)).astype(np.float32))
    calls = [
        ((q, k, v), {}),
        ((q, k, v), {"key_padding_mask": padding, "average_attn_weights": False}),
        ((q, k, v), {"attn_mask": causal}),
        ((q, k, v), {"attn_mask": bias, "need_weights": False}),
        ((q, k, v), {"attn_mask": causal, "key_padding_mask": padding}),
        ((q, k, v), {"attn_mask": bias, "key_padding_mask": padding}),
        ((short, k, v), {"key_padding_mask": padding}),
    ]
    expected = [attention(*inputs, **options) for inputs, options in calls]
    optimizer = THOR(net, 0.1)
    optimizer.keep_plain({})
    for (inputs, options), outputs in zip(calls, expected):
        found = attention(*inputs, **options)
        assert len(found) == len(outputs)
        for one, other in zip(found, outputs):
            np.testing.assert_allclose(one.asnumpy(), other.asnumpy(), rtol=1e-4, atol=1e-5)


class Cross(nn.Cell):
    """Attention of a short sequence to a long one, then a layer with that of it to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.cross = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.itself = nn.TransformerEncoderLayer(WIDTH, HEADS, 6, batch_first=True)

    def construct(self, x, memory):
        y = self.cross(x, memory, memory)[0]
        return self.itself(y).mean(1)


def test_different_lengths_train_with_the_plain_gradient() -> None:
    net = randomise(Cross(), 7)
    optimizer = THOR(net, 0.1)
    rows = {row.layer: row for row in optimizer.layer_report()}
    assert not rows["itself.self_attn"].covered  # not known yet
    step = TrainStep(net, cross_entropy(), optimizer)
    rng = np.random.default_rng(8)
    x, memory = (rng.standard_normal((3, n, WIDTH)).astype(np.float32) for n in (2, 4))
    before = {p.name: p.asnumpy().copy() for p in net.trainable_params()}
    step(Tensor(x), Tensor(memory), Tensor(np.array([0, 1, 2], np.int32)))
    rows = {row.layer: row for row in optimizer.layer_report()}
    for name in ("self_attn", "self_attn.out_proj", "dense1", "dense2"):
        assert rows[f"itself.{name}"].covered
    for name in ("cross", "cross.out_proj"):
        assert not rows[name].covered
        assert "layer itself not used" in rows[name].reason
    for p in net.trainable_params():
        assert np.abs(p.asnumpy() - before[p.name]).max() > 0, p.name


def test_what_is_left_plain() -> None:
    class Child(nn.MultiheadAttention):
        """Has a construct of its own."""

        def construct(self, x):
            return ops.matmul(x, self.in_proj_weight.T)

    for cell, reason in (
        (nn.MultiheadAttention(4, 2, kdim=3), "kdim or vdim"),
        (nn.MultiheadAttention(4, 2, add_zero_attn=True), "besides"),
        (nn.MultiheadAttention(4, 2, add_bias_kv=True), "besides"),
        (Child(4, 2), "own construct"),
    ):
        attention, out = THOR(nn.SequentialCell(cell), 0.1).layer_report()
        assert not attention.covered
        assert reason in attention.reason
        assert not out.covered or isinstance(cell, Child)  # where nobody reads it
