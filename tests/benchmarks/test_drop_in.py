"""The drop-in comparison: its script against formulas, which runs it does, and its page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from PIL import Image

from benchmarks import drop_in as program
from benchmarks.dropin import page, runs, script
from benchmarks.dropin.runs import Place, best, run_pair
from benchmarks.harness.spec import RESULTS
from mindspore_thor import TrainStep
from mindspore_thor.errors import UserError

MEAN, STD = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])


def write_cifar(folder: Path, *, test_file: bool) -> np.ndarray:
    """Five training files of four images each; returns all pixels, uint8 [20, 3, 32, 32]."""
    generator = np.random.default_rng(5)
    records = generator.integers(0, 256, (24, 3073), dtype=np.uint8)
    records[:, 0] = np.arange(24) % 10
    for number in range(5):
        records[4 * number : 4 * number + 4].tofile(folder / f"data_batch_{number + 1}.bin")
    if test_file:
        records[20:].tofile(folder / "test_batch.bin")
    return records[:, 1:].reshape(-1, 3, 32, 32)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TRAIN", 10), ("HELD_OUT", 6), ("TEST", 3), ("BATCH", 4)):
        monkeypatch.setattr(script, name, value)


def test_a_rate_is_chosen_by_held_out_images_and_the_test_file_is_not_there(
    tmp_path: Path, small: None
) -> None:
    pixels = write_cifar(tmp_path, test_file=False)
    images = script.read_images(tmp_path, tuning=True)
    np.testing.assert_array_equal(images.train[0], pixels[:10])
    np.testing.assert_array_equal(images.judged[0], pixels[10:16])
    assert images.judged[1].tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(UserError, match=r"test_batch\.bin"):
        script.read_images(tmp_path, tuning=False)


def test_the_curves_are_of_test_images(tmp_path: Path, small: None) -> None:
    pixels = write_cifar(tmp_path, test_file=True)
    images = script.read_images(tmp_path, tuning=False)
    np.testing.assert_array_equal(images.train[0], pixels[:10])
    np.testing.assert_array_equal(images.judged[0], pixels[20:23])
    assert images.judged[1].tolist() == [0, 1, 2]


def test_batches() -> None:
    generator = np.random.default_rng(6)
    pixels = generator.integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)
    images = (pixels, np.arange(10, dtype=np.uint8))
    found = list(script.batches(images, 4, None))
    # As they are, in order, the incomplete batch left out.
    assert [labels.tolist() for _, labels in found] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    expected = (pixels[4:8] / 255.0 - MEAN.reshape(-1, 1, 1)) / STD.reshape(-1, 1, 1)
    np.testing.assert_allclose(found[1][0], expected, rtol=1e-5, atol=1e-5)

    def order(seed: int, epoch: int) -> list[int]:
        return [int(k) for _, labels in script.batches(images, 4, seed, epoch) for k in labels]

    assert len(set(order(1, 0))) == 8
    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1) and order(1, 0) != order(2, 0)


def test_loss_and_accuracy() -> None:
    logits = np.array([[0.0, math.log(3.0)], [math.log(9.0), 0.0], [1000.0, 0.0]])
    loss, accuracy = script.loss_and_accuracy(logits, np.array([1, 1, 1]))
    # Probabilities of the labels: 3/4, 1/10, exp(-1000).
    assert loss == pytest.approx((math.log(4 / 3) + math.log(10) + 1000.0) / 3)
    assert accuracy == pytest.approx(1 / 3)


def test_rates() -> None:
    expected = [0.2 * (1 + math.cos(math.pi * k / 6)) for k in range(6)]
    np.testing.assert_allclose(script.cosine_rates(0.4, 6), expected, rtol=1e-12)


class Linear(nn.Cell):
    """A softmax regression that begins with zeros."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.dense = nn.Dense(features, 10, weight_init="zeros", bias_init="zeros")

    def construct(self, x: Tensor) -> Tensor:
        return self.dense(self.flatten(x))


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def test_the_script_trains_as_momentum_does(small: None) -> None:
    generator = np.random.default_rng(7)
    pixels = generator.integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)
    images = script.Images(
        (pixels, np.arange(10) % 10), (pixels[:5], np.array([3, 1, 2, 9, 0], np.uint8))
    )
    rows, failed = script.train(lambda: Linear(3072), script.momentum, 0.01, 3, images, 2)
    # float64: v <- 0.9 v + (g + wd w), w <- w - rate v, biases and weights in one matrix.
    weight, moment = np.zeros((10, 3073)), np.zeros((10, 3073))
    rates = [0.005 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]
    losses = []
    for step in range(4):
        epoch, number = divmod(step, 2)
        x, labels = list(script.batches(images.train, 4, 3, epoch))[number]
        inputs = np.hstack([x.reshape(4, -1).astype(np.float64), np.ones((4, 1))])
        shares = softmax(inputs @ weight.T)
        losses.append(-np.log(shares[np.arange(4), labels]).mean())
        gradient = (shares - np.eye(10)[labels]).T @ inputs / 4
        moment = 0.9 * moment + gradient + 5e-4 * weight
        weight = weight - rates[step] * moment
    assert failed is None
    np.testing.assert_allclose(
        [row["loss"] for row in rows], [np.mean(losses[:2]), np.mean(losses[2:])], rtol=1e-4
    )
    x = (pixels[:5] / 255.0 - MEAN.reshape(-1, 1, 1)) / STD.reshape(-1, 1, 1)
    logits = np.hstack([x.reshape(5, -1), np.ones((5, 1))]) @ weight.T
    loss, accuracy = script.loss_and_accuracy(logits, images.judged[1])
    assert rows[1]["test_loss"] == pytest.approx(loss, rel=1e-4)
    assert rows[1]["test_accuracy"] == pytest.approx(accuracy)
    assert [row["epoch"] for row in rows] == [1, 2] and rows[1]["skipped"] == 0


@pytest.mark.parametrize("line", [script.thor, script.kfac])
def test_the_line_keeps_the_length_of_momentums_step(
    line: Callable[[nn.Cell, Any], nn.Optimizer],
) -> None:
    generator = np.random.default_rng(8)
    x = generator.normal(size=(16, 6)) * np.array([8.0, 4.0, 2.0, 1.0, 0.5, 0.25])
    labels = generator.integers(0, 10, 16).astype(np.int32)
    net = Linear(6)
    step = TrainStep(net, nn.CrossEntropyLoss(), line(net, [0.5, 0.25]))
    step(Tensor(x, ms.float32), Tensor(labels))
    moved = net.dense.weight.asnumpy().astype(np.float64)
    bias = net.dense.bias.asnumpy().astype(np.float64)
    # All logits are 0: every share is 1/10, and Momentum's first step is 0.5 of the gradient.
    gradient = (0.1 - np.eye(10)[labels]).T @ x / 16
    bias_gradient = (0.1 - np.eye(10)[labels]).mean(0)
    if line is script.thor:  # the bias keeps the plain gradient
        np.testing.assert_allclose(bias, -0.5 * bias_gradient, rtol=1e-4, atol=1e-6)
        assert np.linalg.norm(moved) == pytest.approx(0.5 * np.linalg.norm(gradient), rel=1e-4)
    else:  # one matrix with the bias in it
        length = np.hypot(np.linalg.norm(moved), np.linalg.norm(bias))
        whole = np.hypot(np.linalg.norm(gradient), np.linalg.norm(bias_gradient))
        assert length == pytest.approx(0.5 * whole, rel=1e-4)
    cosine = -(moved * gradient).sum() / np.linalg.norm(moved) / np.linalg.norm(gradient)
    assert 0.0 < cosine < 0.95  # and yet it is another direction


def test_best() -> None:
    assert best([0.1, None, 0.3, 0.3]) == 2
    assert best([math.nan, 0.1]) == 1


Call = tuple[float, int, bool, int]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Replaces training: accuracy is best at a rate of 0.1; seed 3 fails after one epoch."""
    seen: list[Call] = []
    monkeypatch.setattr(script, "read_images", lambda data, *, tuning: tuning)

    def train(
        build: Any, line: Any, rate: float, seed: int, images: bool, epochs: int, *others: Any
    ) -> tuple[list[dict[str, float]], str | None]:
        seen.append((rate, seed, images, epochs))
        value = 1.0 - abs(rate - 0.1)
        rows = [{"epoch": k, "loss": 1.0, "test_accuracy": value} for k in range(1, epochs + 1)]
        return (rows[:1], "a layer failed") if seed == 3 else (rows, None)

    monkeypatch.setattr(script, "train", train)
    return seen


def test_momentum_is_tuned_once_and_the_other_line_takes_its_rate(
    tmp_path: Path, calls: list[Call]
) -> None:
    run_pair(Place(tmp_path, "resnet20", "thor"), tmp_path, [1, 2])
    tuning = [(rate, 100, True, runs.TUNING_EPOCHS) for rate in (0.03, 0.1, 0.3)]
    assert calls == [*tuning, *((0.1, seed, False, runs.EPOCHS) for seed in (1, 2))]
    assert json.loads((tmp_path / "resnet20-momentum-tuning.json").read_text())["rate"] == 0.1
    calls.clear()
    # What is stored is not repeated: neither a run nor the choice.
    run_pair(Place(tmp_path, "resnet20", "thor"), tmp_path, [1, 2])
    assert calls == []
    run_pair(Place(tmp_path, "resnet20", "kfac"), tmp_path, [1])
    assert calls == [(0.1, 1, False, runs.EPOCHS)]
    calls.clear()
    run_pair(Place(tmp_path, "resnet20", "thor_own"), tmp_path, [1])
    assert [rate for rate, *_ in calls] == [*script.OPTIMIZERS["thor_own"].own_rates, 0.1]


def test_a_run_that_failed_is_stored_as_such(tmp_path: Path, calls: list[Call]) -> None:
    place = Place(tmp_path, "vgg11", "momentum")
    run_pair(place, tmp_path, [3])
    head, *rows = map(json.loads, place.run(3).read_text().splitlines())
    assert head["failed"] == "a layer failed" and head["seed"] == 3 and head["rate"] == 0.1
    assert len(rows) == 1 and len(head["commit"]) >= 7


ORIGIN = {"commit": "abc123", "versions": {"mindspore": "2.10.0"}, "machine": "x86_64, 2 cores"}
ENDS = {
    "momentum": ([0.3, 0.5], [0.2, 0.44], [0.4, 0.6]),
    "thor": ([0.52, 0.56], [0.5, 0.54], [0.2, 0.58]),
    "kfac": ([0.3, 0.4], [0.3, 0.42], [0.1]),
    "thor_own": ([0.4, 0.6], [0.4, 0.6], [0.4, 0.62]),
}


def write_runs(folder: Path) -> None:
    """Losses are 1 - accuracy; KFAC's third run ends after its first epoch."""
    folder.mkdir()
    for optimizer, curves in ENDS.items():
        for seed, curve in enumerate(curves, 1):
            head: dict[str, Any] = {"seed": seed, "rate": 0.1, "epochs": 2, **ORIGIN}
            if len(curve) < 2:
                head["failed"] = "a layer failed"
            rows = [
                {"epoch": k, "loss": 1 - value, "test_accuracy": value}
                for k, value in enumerate(curve, 1)
            ]
            text = "".join(json.dumps(item) + "\n" for item in (head, *rows))
            Place(folder, "vgg11", optimizer).run(seed).write_text(text)
    tried = [{"rate": 0.03, "accuracy": None}, {"rate": 0.1, "accuracy": 0.25}]
    content = {"rate": 0.1, "candidates": tried}
    Place(folder, "vgg11", "momentum").tuning.write_text(json.dumps(content))


def cells(text: str, *starts: str) -> list[str]:
    lines = [line for line in text.splitlines() if all(start in line for start in starts)]
    return [cell.strip() for cell in lines[0].strip("|").split("|")]


def test_the_table_is_made_of_medians(tmp_path: Path) -> None:
    write_runs(tmp_path / "logs")
    text = page.section(tmp_path / "logs")
    title = script.NETS["vgg11"].title
    # Ends of Momentum: 0.44, 0.5, 0.6; THOR's medians are 0.5 and 0.56.
    assert cells(text, title, "| Momentum |") == [
        *(title, "Momentum", "0.1", "3", "0.500", "50.0 (44.0 to 60.0)", "-", "-")
    ]
    assert cells(text, "| THOR, grafted |")[4:] == ["0.440", "56.0 (54.0 to 58.0)", "+6.0", "1"]
    # The run that failed is the worst: 0.4 is the median of 0.42, 0.4 and nothing.
    assert cells(text, "| KFAC, grafted |")[3:] == [
        *("3, 1 failed", "0.600", "40.0 (- to 42.0)", "-10.0", "-")
    ]
    # Grafting minus own rate: 0.56 - 0.6, and losses 0.44 - 0.4.
    assert cells(text, f"{title}, THOR |") == [f"{title}, THOR", "-4.0", "+0.040"]
    assert cells(text, "Momentum | 0.03: failed")[2] == "0.03: failed; **0.1: 25.0**"
    assert "Commit abc123; mindspore 2.10.0; x86_64, 2 cores." in text


def test_report(tmp_path: Path) -> None:
    write_runs(tmp_path / "logs")
    (tmp_path / "docs").mkdir()
    path = tmp_path / page.PAGE
    path.write_text("no markers")
    with pytest.raises(UserError, match="results: drop_in"):
        page.report(tmp_path, tmp_path / "logs", check=False)
    path.write_text(
        "above\n<!-- results: drop_in -->\nstale\n<!-- end of results: drop_in -->\nbelow\n"
    )
    assert page.report(tmp_path, tmp_path / "logs", check=True) == path
    assert "stale" in path.read_text() and not (tmp_path / page.FIGURE).exists()
    assert page.report(tmp_path, tmp_path / "logs", check=False) == path
    text = path.read_text()
    assert text.startswith("above\n") and text.endswith("below\n") and "stale" not in text
    with Image.open(tmp_path / page.FIGURE) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert min(pixels.shape) > 300 and pixels.min() < 100 and pixels.max() == 255
    assert page.report(tmp_path, tmp_path / "logs", check=True) is None


def test_own_rates_are_for_two_nets_unless_they_are_asked_for() -> None:
    found = program.pairs(None, None)
    own = [net for net, optimizer in found if optimizer.endswith("_own")]
    assert own == ["resnet20", "resnet20", "vgg11", "vgg11"]
    assert len(found) == 3 * len(script.NETS) + 4
    assert program.pairs("vgg11", "thor_own,thor") == [("vgg11", "thor_own"), ("vgg11", "thor")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nets", "vgg"], "error: --nets: unknown 'vgg'; use some of resnet20,vgg11,"),
        (["--optimizers", "adam"], "error: --optimizers: unknown 'adam'; use some of momentum,"),
        (["--check"], "error: --check is for the report: give --report, too"),
        (["--nets", "vgg11"], "error: data set 'cifar10' needs a data path: give the folder"),
        (["--data_path", "{folder}/nothing"], "error: data path '{folder}/nothing' does not exist"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [text.format(folder=tmp_path) for text in arguments]
    assert program.main([*given, "--results_dir", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(message.format(folder=tmp_path))
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_the_committed_table_is_that_of_the_stored_runs() -> None:
    assert list((RESULTS / "drop_in").glob("*.jsonl"))
    assert program.main(["--report", "--check"]) == 0
