"""A Transformer in float64 NumPy, and all of its translations up to some length."""

from __future__ import annotations

import itertools

import numpy as np
from mindspore import nn

Weights = dict[str, np.ndarray]


def weights_of(net: nn.Cell) -> Weights:
    return {p.name: p.asnumpy().astype(np.float64) for p in net.get_parameters()}


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


class TransformerOracle:
    """Sentence by sentence, without padding, masks or batches.

    Args:
        weights: by the names of the net's parameters.
        heads: of every attention.
        tied: one table.
        norm_first: pre-norm.
    """

    def __init__(self, weights: Weights, heads: int, tied: bool, norm_first: bool) -> None:
        self.w, self.heads, self.tied, self.norm_first = weights, heads, tied, norm_first
        self.source_table = weights[f"{'' if tied else 'source_'}embedding.embedding_table"]
        self.target_table = weights[f"{'' if tied else 'target_'}embedding.embedding_table"]
        self.width = self.source_table.shape[1]

    def layers(self, part: str) -> list[str]:
        return sorted({".".join(name.split(".")[:2]) for name in self.w if name.startswith(part)})

    def dense(self, name: str, x: np.ndarray) -> np.ndarray:
        y = x @ self.w[f"{name}.weight"].T
        return y + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else y

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return centred / deviation * self.w[f"{name}.gamma"] + self.w[f"{name}.beta"]

    def embed(self, table: np.ndarray, ids: list[int]) -> np.ndarray:
        x = table[ids] * np.sqrt(self.width)
        for p in range(len(ids)):
            for i in range(0, self.width, 2):
                angle = p / 10000 ** (i / self.width)
                x[p, i] += np.sin(angle)
                x[p, i + 1] += np.cos(angle)
        return x

    def attention(self, name: str, x: np.ndarray, memory: np.ndarray, causal: bool) -> np.ndarray:
        q, k, v = (
            self.dense(f"{name}.{part}", y)
            for part, y in (("query", x), ("key", memory), ("value", memory))
        )
        size = self.width // self.heads
        result = np.zeros_like(x)
        for h in range(self.heads):
            cut = slice(h * size, (h + 1) * size)
            for t in range(len(x)):
                seen = t + 1 if causal else len(memory)
                scores = k[:seen, cut] @ q[t, cut] / np.sqrt(size)
                result[t, cut] = softmax(scores) @ v[:seen, cut]
        return self.dense(f"{name}.out", result)

    def feed_forward(self, name: str, x: np.ndarray) -> np.ndarray:
        hidden = np.maximum(self.dense(f"{name}.feed_forward.dense1", x), 0)
        return self.dense(f"{name}.feed_forward.dense2", hidden)

    def sublayer(self, norm: str, x: np.ndarray, f) -> np.ndarray:
        if self.norm_first:
            return x + f(self.norm(norm, x))
        return self.norm(norm, x + f(x))

    def encode(self, source: list[int]) -> np.ndarray:
        x = self.embed(self.source_table, source)
        for name in self.layers("encoder."):
            x = self.sublayer(
                f"{name}.norm1", x, lambda y, n=name: self.attention(f"{n}.attention", y, y, False)
            )
            x = self.sublayer(f"{name}.norm2", x, lambda y, n=name: self.feed_forward(n, y))
        return self.norm("encoder_norm", x) if self.norm_first else x

    def decode(self, target: list[int], memory: np.ndarray) -> np.ndarray:
        """Logits [T, V] of the tokens that follow each of the target's."""
        x = self.embed(self.target_table, target)
        for name in self.layers("decoder."):
            x = self.sublayer(
                f"{name}.norm1", x, lambda y, n=name: self.attention(f"{n}.attention", y, y, True)
            )
            x = self.sublayer(
                f"{name}.norm2",
                x,
                lambda y, n=name: self.attention(f"{n}.cross_attention", y, memory, False),
            )
            x = self.sublayer(f"{name}.norm3", x, lambda y, n=name: self.feed_forward(n, y))
        if self.norm_first:
            x = self.norm("decoder_norm", x)
        return x @ (self.target_table if self.tied else self.w["generator.weight"]).T

    def logits(self, source: list[int], target: list[int]) -> np.ndarray:
        return self.decode(target, self.encode(source))

    def log_p(self, memory: np.ndarray, translation: list[int]) -> float:
        """Of a translation and its end."""
        logs = log_softmax(self.decode([1, *translation], memory))
        return float(sum(logs[t, token] for t, token in enumerate([*translation, 2])))

    def all_scores(
        self, source: list[int], max_length: int, alpha: float
    ) -> dict[tuple[int, ...], float]:
        """log p / ((5 + |Y|) / 6)^alpha of every translation Y, whose end counts."""
        memory = self.encode(source)
        words = [i for i in range(len(self.target_table)) if i not in (0, 1, 2)]
        return {
            y: self.log_p(memory, list(y)) / ((5 + len(y) + 1) / 6) ** alpha
            for length in range(max_length + 1)
            for y in itertools.product(words, repeat=length)
        }
