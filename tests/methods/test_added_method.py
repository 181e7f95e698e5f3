"""The method of docs/add_a_method.md: one file, found by its name."""

from __future__ import annotations

import shutil
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from places import ROOT, TESTS

from mindspore_thor import TrainStep, methods
from mindspore_thor.curvature.group import where_good

SOURCE = TESTS / "methods" / "foof.py"


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_a_file_in_the_folder_is_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers of one shape, against D (A + lam I)^-1 in float64."""
    shutil.copy(SOURCE, tmp_path / "foof.py")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    found = methods._find()
    monkeypatch.setattr(methods, "METHODS", found)
    assert found["foof"].__name__ == "FOOF" and "thor" in found
    assert "damping" in methods.optimizer_options("foof")

    rng = np.random.default_rng(4)
    net = nn.SequentialCell(nn.Dense(4, 4), nn.Dense(4, 4))
    for parameter in net.get_parameters():
        value = rng.standard_normal(parameter.shape).astype(np.float32)
        parameter.set_data(Tensor(value))
    x = rng.standard_normal((7, 4)).astype(np.float32)
    labels = np.arange(7).astype(np.int32) % 4
    w1, b1, w2, b2 = (p.asnumpy().astype(np.float64) for p in net.get_parameters())
    lam, rate = 0.3, 0.7
    optimizer = methods.create_optimizer("foof", net, rate, damping=lam, momentum=0.0)
    assert [group.layers for group in optimizer.groups] == [2]
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    TrainStep(net, loss, optimizer)(Tensor(x), Tensor(labels))

    h = x @ w1.T + b1
    g2 = (softmax(h @ w2.T + b2) - np.eye(4)[labels]) / 7
    g1 = g2 @ w2
    layers = ((x.astype(np.float64), g1, w1, b1), (h, g2, w2, b2))
    moved = [p.asnumpy() for p in net.get_parameters()]
    for k, (a, g, w, b) in enumerate(layers):
        a = np.hstack([a, np.ones((7, 1))])
        v = g.T @ a @ np.linalg.inv(a.T @ a / 7 + lam * np.eye(5))
        expected = np.hstack([w, b[:, None]]) - rate * v
        np.testing.assert_allclose(moved[2 * k], expected[:, :-1], atol=2e-5)
        np.testing.assert_allclose(moved[2 * k + 1], expected[:, -1], atol=2e-5)


def test_the_page_shows_this_file() -> None:
    page = (ROOT / "docs" / "add_a_method.md").read_text()
    assert SOURCE.read_text().strip() in page


def test_what_is_not_good_stays_to_the_bit() -> None:
    stored = Tensor(np.array([[1.5], [2.5]], np.float32))
    (found,) = where_good(
        Tensor([True, False]), (Tensor([[7.0], [np.nan]], ms.float32),), (stored,)
    )
    assert found.asnumpy().tolist() == [[7.0], [2.5]]
