"""Runs that hold training images out: these are looked at, and the test images once, at the end."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train
from mindspore_thor.data.order import split_off
from mindspore_thor.errors import UserError
from mindspore_thor.run.ckpt_file import load_file
from mindspore_thor.run.resume import compare_configs

eval_program = importlib.import_module("eval")
HELD_OUT = 10


def read(folder: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    images = np.fromfile(folder / f"{prefix}-images-idx3-ubyte", np.uint8, offset=16)
    labels = np.fromfile(folder / f"{prefix}-labels-idx1-ubyte", np.uint8, offset=8)
    return images.reshape(len(labels), -1).astype(np.float64), labels


def accuracy(weights: Mapping[str, Any], images: np.ndarray, labels: np.ndarray) -> float:
    """The MLP of one hidden layer, in NumPy."""
    x = (images / 255 - 0.1307) / 0.3081
    for layer in ("layers.0", "layers.2"):
        kernel, bias = (weights[f"{layer}.{part}"].asnumpy() for part in ("weight", "bias"))
        x = np.maximum(x, 0) if layer == "layers.2" else x
        x = x @ kernel.astype(np.float64).T + bias
    return float((x.argmax(1) == labels).mean())


def result(printed: str) -> dict[str, float]:
    found = re.search(r"^result: (\{.*\}) ckpt=", printed, re.MULTILINE)
    assert found is not None, printed
    return dict(json.loads(found[1].replace("'", '"')))


def test_held_out_images_are_looked_at_and_test_images_at_the_end(
    tiny_recipe: Path, mnist_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config_path", str(tiny_recipe), "--data_path", str(mnist_folder)]
    arguments += ["--data.validation", str(HELD_OUT), "--output_dir", str(tmp_path / "run")]
    assert train.main(arguments) == 0
    printed = capfd.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    # 40 - 10 training images are three batches of ten.
    assert [row["step"] for row in rows] == [3, 6]
    images, labels = read(mnist_folder, "train")
    _, out = split_off(len(labels), HELD_OUT)
    for row in rows:
        weights = load_file(tmp_path / f"run/mlp-{row['epoch']}_3.ckpt")
        assert row["top_1_accuracy"] == pytest.approx(accuracy(weights, images[out], labels[out]))
    tested = accuracy(weights, *read(mnist_folder, "t10k"))
    assert result(printed)["top_1_accuracy"] == pytest.approx(tested, abs=1e-6)
    assert eval_program.main(["--checkpoint_file_path", str(tmp_path / "run")]) == 0
    assert result(capfd.readouterr().out) == result(printed)


def test_the_test_images_are_not_read_before_or_not_at_all(
    tiny_recipe: Path, mnist_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(mnist_folder, folder)
    for path in folder.glob("t10k*"):
        path.unlink()
    arguments = ["--config_path", str(tiny_recipe), "--data_path", str(folder)]
    arguments += ["--data.validation", str(HELD_OUT), "--output_dir", str(tmp_path / "run")]
    assert train.main(arguments) == 2  # before the training rather than behind it
    assert "t10k-images" in capfd.readouterr().err
    assert train.main([*arguments, "--train.epochs", "1", "--train.test", "false"]) == 0
    assert "result:" not in capfd.readouterr().out


@pytest.mark.parametrize("value", ["-1", "2.5", "all", "40"])
def test_a_wrong_number_is_one_line(
    tiny_recipe: Path,
    mnist_folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    value: str,
) -> None:
    arguments = ["--config_path", str(tiny_recipe), "--data_path", str(mnist_folder)]
    arguments += ["--data.validation", value, "--output_dir", str(tmp_path / "run")]
    assert train.main(arguments) == 2
    message = capfd.readouterr().err.strip()
    assert message.startswith("error: ") and "\n" not in message
    assert "validation" in message and value in message
    assert not (tmp_path / "run").exists()


def test_checkpoints_that_know_no_validation_can_be_continued() -> None:
    old = {"data": {"name": "mnist"}, "train": {"seed": 1}}
    new = {"data": {"name": "mnist", "validation": 0}, "train": {"seed": 1, "test": True}}
    assert compare_configs(old, new, Path("x.state.ckpt")) == []
    with pytest.raises(UserError, match="validation"):
        compare_configs(old, {**new, "data": {**new["data"], "validation": 5}}, Path("x"))
