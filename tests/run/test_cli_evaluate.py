"""Accuracy against a plain NumPy count."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from mindspore_thor.run.tasks import TASKS


class Echo(nn.Cell):
    """A net whose logits are its images."""

    def construct(self, x: Tensor) -> Tensor:
        return x


def batches(logits: np.ndarray, labels: np.ndarray, size: int) -> Any:
    def epoch(index: int) -> Iterator[tuple[Tensor, Tensor]]:
        assert index == 0
        for first in range(0, len(labels), size):
            part = slice(first, first + size)
            yield Tensor(logits[part], ms.float32), Tensor(labels[part], ms.int32)

    return SimpleNamespace(epoch=epoch, batch_size=size)


def counted(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Sort each row by hand: larger logits first, equal ones in class order."""
    hits = np.zeros(2)
    for row, label in zip(logits, labels):
        if not np.isfinite(row).all():
            continue
        order = sorted(range(len(row)), key=lambda k: (-row[k], k))
        hits += [label in order[:1], label in order[:5]]
    return {"top_1_accuracy": hits[0] / len(labels), "top_5_accuracy": hits[1] / len(labels)}


@pytest.mark.parametrize(("classes", "samples"), [(10, 23), (10, 24), (3, 7)])
def test_accuracy_counts_every_sample_once(classes: int, samples: int) -> None:
    generator = np.random.default_rng(classes + samples)
    # Few distinct values, so that ties are common.
    logits = generator.integers(0, 4, (samples, classes)).astype(np.float32)
    labels = generator.integers(0, classes, samples)
    logits[2] = np.nan
    logits[4, 0] = np.inf
    logits[5] = 0
    assert TASKS["classify"].evaluation(Echo(), batches(logits, labels, 8))() == counted(
        logits, labels
    )


def test_the_filling_of_the_last_batch_is_not_counted() -> None:
    logits = np.eye(10, dtype=np.float32)[[1, 2, 3, 4, 0]]
    labels = np.array([1, 2, 3, 4, 9])
    found = TASKS["classify"].evaluation(Echo(), batches(logits, labels, 4))()
    assert found is not None
    assert found["top_1_accuracy"] == 4 / 5


def test_the_training_mode_comes_back() -> None:
    logits, labels = np.eye(6, dtype=np.float32), np.arange(6)
    for mode in (True, False):
        net = Echo()
        net.set_train(mode)
        TASKS["classify"].evaluation(net, batches(logits, labels, 3))()
        assert net.training is mode


def test_a_stop_request_ends_it_early() -> None:
    logits, labels = np.eye(6, dtype=np.float32), np.arange(6)
    assert TASKS["classify"].evaluation(Echo(), batches(logits, labels, 3))(lambda: True) is None


def test_the_memory_of_an_evaluation_is_that_of_its_samples() -> None:
    """A batch size beyond the set costs nothing."""
    logits, labels = np.eye(6, dtype=np.float32), np.arange(6)
    assert TASKS["classify"].evaluation(Echo(), batches(logits, labels, 10**12))() == counted(
        logits, labels
    )
