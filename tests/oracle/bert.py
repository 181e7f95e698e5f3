"""BERT in float64 NumPy: pair by pair, without padding, masks or batches."""

from __future__ import annotations

import numpy as np

from oracle.transformer import Weights, softmax


def gelu(x: np.ndarray) -> np.ndarray:
    """By the tanh, as in google-research/bert, modeling.py."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


class BertOracle:
    """Args:
    weights: by the names of the net's parameters.
    heads: of every attention.
    """

    def __init__(self, weights: Weights, heads: int) -> None:
        self.w, self.heads = weights, heads
        self.width = weights["embedding.embedding_table"].shape[1]
        self.count = len({name.split(".")[1] for name in weights if name.startswith("layers.")})

    def dense(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return centred / deviation * self.w[f"{name}.gamma"] + self.w[f"{name}.beta"]

    def attention(self, name: str, x: np.ndarray) -> np.ndarray:
        q, k, v = (self.dense(f"{name}.{part}", x) for part in ("query", "key", "value"))
        size = self.width // self.heads
        result = np.zeros_like(x)
        for h in range(self.heads):
            cut = slice(h * size, (h + 1) * size)
            result[:, cut] = softmax(q[:, cut] @ k[:, cut].T / np.sqrt(size)) @ v[:, cut]
        return self.dense(f"{name}.out", result)

    def encode(self, ids: np.ndarray, segments: np.ndarray) -> np.ndarray:
        x = self.w["embedding.embedding_table"][ids]
        x = x + self.w["segment_embedding.embedding_table"][segments]
        x = x + self.w["position_embedding.embedding_table"][: len(ids)]
        x = self.norm("embedding_norm", x)
        for i in range(self.count):
            name = f"layers.{i}"
            x = self.norm(f"{name}.norm1", x + self.attention(f"{name}.attention", x))
            hidden = gelu(self.dense(f"{name}.feed_forward.dense1", x))
            x = self.norm(f"{name}.norm2", x + self.dense(f"{name}.feed_forward.dense2", hidden))
        return x

    def logits(
        self, ids: np.ndarray, segments: np.ndarray, positions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of the words at the positions [p, V], and of the next sentence [2]."""
        x = self.encode(ids, segments)
        y = self.norm("transform_norm", gelu(self.dense("transform", x[positions])))
        words = y @ self.w["embedding.embedding_table"].T + self.w["output_bias"]
        return words, self.dense("next_sentence", np.tanh(self.dense("pooler", x[:1])))[0]
