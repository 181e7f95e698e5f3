"""The MindSpore nets that the oracle tests train, each with a batch: (net, x, labels)."""

from __future__ import annotations

import numpy as np
from mindspore import nn

from oracle.bridge import TokenMean, randomise

Problem = tuple[nn.SequentialCell, np.ndarray, np.ndarray]


def conv_net(batch: int = 6, seed: int = 1) -> Problem:
    """Every kind of convolution on an odd image, BatchNorm between them, a Dense layer on top.

    The activations are leaky ReLUs: MindSpore's CPU tanh is only good to 1.5e-5.
    """
    net = nn.SequentialCell(
        # asymmetric 4-tuple padding (top, bottom, left, right), uneven stride, bias
        nn.Conv2d(3, 4, (3, 2), (2, 1), "pad", (1, 0, 2, 1), has_bias=True),
        nn.LeakyReLU(),
        nn.Conv2d(4, 6, 3, 2, "same", group=2),
        nn.BatchNorm2d(6),
        # dilated and padded by one number, no bias
        nn.Conv2d(6, 5, (2, 3), 1, "pad", 2, dilation=(2, 1)),
        nn.LeakyReLU(),
        nn.Conv2d(5, 5, 3, 1, "pad", 1, group=5, has_bias=True),  # depthwise
        nn.Conv2d(5, 4, 1, (1, 2), "valid"),  # strided pointwise
        nn.Flatten(),
        nn.Dense(64, 3, activation="leakyrelu"),
    )
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, 3, 9, 8)).astype(np.float32)
    return randomise(net, seed), x, rng.integers(0, 3, batch).astype(np.int32)


def small_conv_net(activation: type[nn.Cell] = nn.LeakyReLU, batch: int = 8) -> Problem:
    """Convolutions with and without bias, BatchNorm, a Dense layer.

    FNGD's Gram matrix is made in both of its ways here.
    """
    net = nn.SequentialCell(
        nn.Conv2d(2, 3, 3, pad_mode="pad", padding=1),
        nn.BatchNorm2d(3),
        activation(),
        nn.Conv2d(3, 2, 2, pad_mode="valid", has_bias=True),
        nn.Flatten(),
        nn.Dense(18, 3),
    )
    rng = np.random.default_rng(5)
    x = rng.standard_normal((batch, 2, 4, 4)).astype(np.float32)
    return randomise(net, 5), x, rng.integers(0, 3, batch).astype(np.int32)


def token_net(batch: int = 5, seed: int = 2, activation: str | None = "leakyrelu") -> Problem:
    """Embedding, LayerNorm, Dense on tokens with and without bias, Dense."""
    net = nn.SequentialCell(
        nn.Embedding(11, 6),
        nn.LayerNorm((6,)),
        nn.Dense(6, 9, activation=activation),
        nn.Dense(9, 5, has_bias=False),
        TokenMean(),
        nn.Dense(5, 4),
    )
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 10, (batch, 7)).astype(np.int32)  # token 10 never occurs
    return randomise(net, seed), ids, rng.integers(0, 4, batch).astype(np.int32)


ODD = (5, 7, 3)


def mlp(batch: int = 8, seed: int = 3, sizes: tuple[int, ...] = (5, 5, 5)) -> Problem:
    """Dense layers with leaky ReLU and bias.

    Layers of one shape are one group: that compiles in little more than half the time of two.
    Where shapes could be confused, or groups, give ODD.
    """
    layers: list[nn.Cell] = []
    for i, (d_in, d_out) in enumerate(zip(sizes, sizes[1:])):
        last = i == len(sizes) - 2
        layers.append(nn.Dense(d_in, d_out, activation=None if last else "leakyrelu"))
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, sizes[0])).astype(np.float32)
    return (
        randomise(nn.SequentialCell(*layers), seed),
        x,
        rng.integers(0, sizes[-1], batch).astype(np.int32),
    )


def batches(
    x: np.ndarray, labels: np.ndarray, steps: int, seed: int = 9
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Different batches of one shape: scaled and permuted images, permuted ids."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(steps):
        if x.dtype == np.int32:
            new = rng.permuted(x, axis=1)
            new = np.where(rng.random(x.shape) < 0.3, rng.integers(0, 10, x.shape), new).astype(
                np.int32
            )
        else:
            new = (rng.standard_normal(x.shape) * rng.uniform(0.7, 1.5)).astype(np.float32)
        out.append((new, rng.integers(0, int(labels.max()) + 1, labels.shape).astype(np.int32)))
    return out
