"""The mean over real tokens: against its formula in float64, and against MindSpore's own."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindspore_thor import TokenMeanLoss
from mindspore_thor.errors import UserError


@pytest.mark.parametrize(("ignored", "smoothing"), [(0, 0.0), (-100, 0.1)])
def test_it_is_the_formula(ignored, smoothing) -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, 4, 5))
    targets = rng.integers(1, 5, (2, 4))
    targets[0, 2:] = targets[1, 3] = ignored
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    wanted = []
    for n, t in zip(*np.nonzero(targets != ignored)):
        label = np.full(5, smoothing / 5)
        label[targets[n, t]] += 1 - smoothing
        wanted.append(-(label * np.log(p[n, t])).sum())
    inputs = Tensor(logits.astype(np.float32)), Tensor(targets.astype(np.int32))
    found = TokenMeanLoss(ignored, smoothing)(*inputs)
    assert found.shape == ()
    assert float(found) == pytest.approx(np.mean(wanted), rel=1e-5)
    own = nn.CrossEntropyLoss(ignore_index=ignored, label_smoothing=smoothing)
    assert float(own(inputs[0].reshape(8, 5), inputs[1].reshape(8))) == pytest.approx(
        np.mean(wanted), rel=1e-5
    )


class Gradient(nn.Cell):
    """Of three times a loss."""

    def __init__(self, loss: nn.Cell) -> None:
        super().__init__()
        self.loss = loss
        self.grad = ops.GradOperation(sens_param=True)

    def construct(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.grad(self.loss)(logits, targets, ops.ones((), ms.float32) * 3.0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_its_gradient_is_the_formula(smoothing) -> None:
    """3 (softmax - q) / M for three times the loss, and exactly zero where nothing is scored."""
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((2, 3, 7))
    targets = np.array([[4, 6, 0], [1, 0, 0]])
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    q = np.full_like(p, smoothing / 7)
    np.put_along_axis(q, targets[..., None], smoothing / 7 + 1 - smoothing, axis=2)
    wanted = 3 * (p - q) * (targets != 0)[..., None] / 3
    loss = TokenMeanLoss(label_smoothing=smoothing)
    labels = Tensor(targets.astype(np.int32))
    gradient = Gradient(loss)(Tensor(logits.astype(np.float32)), labels).asnumpy()
    np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=1e-7)
    assert not gradient[targets == 0].any()


def test_without_any_token_it_is_zero() -> None:
    logits = Tensor(np.ones((1, 2, 3), np.float32))
    assert float(TokenMeanLoss()(logits, Tensor(np.zeros((1, 2), np.int32)))) == 0.0


@pytest.mark.parametrize(
    "arguments",
    [{"ignore_index": 0.5}, {"ignore_index": True}, {"label_smoothing": 1.5}],
    ids=str,
)
def test_bad_arguments(arguments) -> None:
    with pytest.raises(UserError, match=next(iter(arguments))):
        TokenMeanLoss(**arguments)
