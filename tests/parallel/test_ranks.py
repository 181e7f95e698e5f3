"""What the ranks settle among themselves, with the other rank played by the test."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import models
from mindspore_thor.errors import TrainingError, UserError
from mindspore_thor.parallel import agreement
from mindspore_thor.run import build
from mindspore_thor.run.config import Config, load_config, parse_overrides
from mindspore_thor.run.task import TEST, TRAIN


@pytest.fixture
def config(tiny_recipe: Path, mnist_folder: Path) -> Config:
    overrides = parse_overrides([f"--data.path={mnist_folder}", "--data.eval_batch_size=4"])
    return load_config(tiny_recipe, models, overrides)


def test_the_shares_of_a_batch_are_the_whole_batch(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(build.open_data(config, TRAIN).epoch(1))
    for size in (2, 5):
        shares = []
        for rank in range(size):
            monkeypatch.setattr(build, "world", lambda rank=rank, size=size: (rank, size))
            shares.append(list(build.open_data(config, TRAIN).epoch(1)))
        monkeypatch.undo()
        assert [len(share) for share in shares] == [len(whole)] * size
        for step, batch in enumerate(whole):
            for column, expected in enumerate(batch):
                # Sample number i of the batch belongs to rank i modulo the number of ranks.
                parts = [share[step][column].asnumpy() for share in shares]
                joint = np.stack(parts, axis=1).reshape(expected.shape)
                np.testing.assert_array_equal(joint, expected.asnumpy())


def test_each_test_image_belongs_to_one_rank(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def labels() -> list[int]:
        data = build.open_data(config, TEST)
        return [int(label) for _, batch in data.epoch(0) for label in batch.asnumpy()]

    whole = labels()
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(build, "world", lambda rank=rank: (rank, 2))
        shares.append(labels())
    assert [len(share) for share in shares] == [11, 10]
    assert shares == [whole[0::2], whole[1::2]]


def test_a_batch_that_cannot_be_shared(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "world", lambda: (0, 4))
    with pytest.raises(
        UserError, match=r"data.batch_size is 10, which 4 processes .*multiple of 4"
    ):
        build.open_data(config, TRAIN)
    small = dataclasses.replace(config.data, batch_size=44)
    with pytest.raises(UserError, match="in each of 4 processes"):
        build.open_data(dataclasses.replace(config, data=small), TRAIN)


def other_rank(monkeypatch: pytest.MonkeyPatch, sent: list[np.ndarray]) -> None:
    """Let rank 1's messages be those that rank 0 is about to receive, or the other way round."""

    def add(values: np.ndarray) -> np.ndarray:
        return np.asarray(values, np.float32) + sent.pop(0)

    monkeypatch.setattr(agreement, "sum_over_ranks", add)


def captured(monkeypatch: pytest.MonkeyPatch, rank: int, work: Callable[[], None]) -> np.ndarray:
    """What ``rank`` of two would send."""
    sent: list[np.ndarray] = []

    def record(values: np.ndarray) -> np.ndarray:
        sent.append(np.asarray(values, np.float32))
        raise StopIteration

    monkeypatch.setattr(agreement, "world", lambda: (rank, 2))
    monkeypatch.setattr(agreement, "sum_over_ranks", record)
    with pytest.raises(StopIteration):
        work()
    return sent[0]


def test_a_different_start_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.arange(6, dtype=np.float32)
    near = weights.copy()
    near[3] = np.nextafter(near[3], np.float32(9))
    mine = {"set of weights": [weights], "configuration": ["a=1", "b"]}

    def compare(theirs: dict) -> None:
        message = captured(monkeypatch, 1, lambda: agreement.check_equal(theirs))
        monkeypatch.setattr(agreement, "world", lambda: (0, 2))
        other_rank(monkeypatch, [message])
        agreement.check_equal(mine)

    compare({name: list(parts) for name, parts in mine.items()})
    with pytest.raises(TrainingError, match="rank 1 starts with another set of weights"):
        compare({**mine, "set of weights": [near]})
    with pytest.raises(TrainingError, match="rank 1 starts with another configuration"):
        compare({**mine, "configuration": ["a=1", "c"]})


def test_one_rank_agrees_with_itself() -> None:
    assert agreement.any_rank(True) and not agreement.any_rank(False)
    np.testing.assert_array_equal(agreement.sum_over_ranks(np.array([3, 4])), [3, 4])
    agreement.check_equal({"x": ["y"]})
