"""The mean over real tokens: against its formula in float64, and against MindSpore's own."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor, nn

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
