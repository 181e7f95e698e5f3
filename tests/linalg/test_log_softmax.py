"""Logarithms of probabilities against float64, and that nobody takes MindSpore's own operator."""

from __future__ import annotations

import re
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindspore_thor.linalg.log_softmax import log_softmax

ROOT = Path(__file__).parents[2]


class Weighted(nn.Cell):
    def construct(self, scores: Tensor, weights: Tensor) -> Tensor:
        return (log_softmax(scores) * weights).sum()


class Both(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.weighted = Weighted()
        self.gradient = ops.GradOperation()

    def construct(self, scores: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        return log_softmax(scores), self.gradient(self.weighted)(scores, weights)


def test_values_and_gradient() -> None:
    """d/dx_i sum_j w_j log p_j = w_i - p_i sum_j w_j; large scores overflow nowhere."""
    ms.set_context(mode=ms.GRAPH_MODE)
    rng = np.random.default_rng(3)
    scores = (rng.standard_normal((4, 3, 7)) * 5).astype(np.float32)
    scores[0, 0, :2] = (300.0, -300.0)
    weights = rng.standard_normal(scores.shape).astype(np.float32)
    exact = scores.astype(np.float64)
    exact -= exact.max(-1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(-1, keepdims=True))
    slope = weights - np.exp(exact) * weights.astype(np.float64).sum(-1, keepdims=True)
    values, gradient = Both()(Tensor(scores), Tensor(weights))
    np.testing.assert_allclose(values.asnumpy(), exact, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient.asnumpy(), slope, rtol=1e-5, atol=1e-5)


def test_nobody_takes_mindspores_own() -> None:
    own = re.compile(r"LogSoftmax\(|ops\.log_softmax|\bF\.log_softmax")
    found = [
        str(path.relative_to(ROOT))
        for folder in ("mindspore_thor", "models")
        for path in (ROOT / folder).rglob("*.py")
        if own.search(path.read_text(encoding="utf-8"))
    ]
    assert not found
