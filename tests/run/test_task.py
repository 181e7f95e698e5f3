"""The task ``reconstruct``: loss, metric and a whole run; what fits neither task is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor, nn

import models
import train
from mindspore_thor.data import create_data
from mindspore_thor.errors import UserError
from mindspore_thor.run.tasks import TASKS
from mindspore_thor.run.tasks.images import ReconstructionLoss

RECIPE = """
model: {name: autoencoder, hidden: [16, 5]}
data: {name: mnist, batch_size: 10, eval_batch_size: 8, augment: false}
optimizer: {name: thor, split_dim: 32, factor_interval: 2, inverse_interval: 2}
learning_rate: {schedule: constant, value: 0.02}
damping: {schedule: constant, value: 0.1}
train: {task: reconstruct, epochs: 2, seed: 5}
"""


class Fixed(nn.Cell):
    """The same logits for every image."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.logits = Tensor(logits)

    def construct(self, x: Tensor) -> Tensor:
        return x.reshape((x.shape[0], -1)) * 0.0 + self.logits


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-z))


def test_the_loss_is_the_summed_cross_entropy() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, (4, 6))
    images = generator.random((4, 1, 2, 3))
    p, x = sigmoid(logits), images.reshape(4, 6)
    expected = -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum(1).mean()
    loss = ReconstructionLoss()
    found = loss(Tensor(logits.astype(np.float32)), Tensor(images.astype(np.float32)))
    assert float(found.asnumpy()) == pytest.approx(expected, rel=1e-5)
    # Far out the loss of a wrong pixel is its logit, not infinity.
    far = loss(Tensor(np.float32([[200.0, -200.0]])), Tensor(np.float32([[0.0, 0.0]])))
    assert float(far.asnumpy()) == pytest.approx(200.0)


def test_the_metric_is_the_mean_squared_distance_of_raw_pixels(mnist_folder: Path) -> None:
    data = create_data("mnist", mnist_folder, train=False, batch_size=8, normalize=False)
    logits = np.random.default_rng(1).normal(0, 2, 784)
    images = np.concatenate([batch.asnumpy() for batch, _ in data.epoch(0)])
    assert images.min() >= 0 and 0.5 < images.max() <= 1
    expected = ((sigmoid(logits) - images.reshape(-1, 784)) ** 2).sum(1).mean()
    net = Fixed(logits.astype(np.float32))
    found = TASKS["reconstruct"].evaluation(net, data)()
    assert found == {"reconstruction_error": pytest.approx(expected, rel=1e-5)}


def test_the_net_mirrors_its_encoder() -> None:
    net = models.create_model("autoencoder")
    sizes = [cell.weight.shape for _, cell in net.cells_and_names() if isinstance(cell, nn.Dense)]
    assert sizes == [
        (1000, 784),
        (500, 1000),
        (250, 500),
        (30, 250),
        (250, 30),
        (500, 250),
        (1000, 500),
        (784, 1000),
    ]
    order = [type(cell).__name__ for cell in net.layers]
    # No activation behind the code (the fourth layer) and none behind the output.
    assert order == ["Dense", "Tanh"] * 3 + ["Dense"] + ["Dense", "Tanh"] * 3 + ["Dense"]


def test_a_run_reports_and_keeps_the_smallest_error(tmp_path: Path, mnist_folder: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    arguments = ["--config_path", str(recipe), "--data_path", str(mnist_folder)]
    assert train.main([*arguments, "--output_dir", str(tmp_path / "run")]) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    errors = [json.loads(line)["reconstruction_error"] for line in lines]
    assert len(errors) == 2 and errors[1] < errors[0]
    assert (tmp_path / "run" / "autoencoder_best.ckpt").is_file()
    # The last epoch is the best one: both checkpoints hold the same weights.
    last = (tmp_path / "run" / "autoencoder-2_4.ckpt").read_bytes()
    assert (tmp_path / "run" / "autoencoder_best.ckpt").read_bytes() == last


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--train.task", "classify"], ("autoencoder", "reconstruct")),
        (["--model", "{name: mlp}"], ("mlp", "autoencoder")),
        (["--train.label_smoothing", "0.1"], ("label_smoothing", "0")),
        (["--train.task", "draw"], ("draw", "classify, reconstruct")),
    ],
)
def test_what_does_not_fit_the_task_is_refused(
    tmp_path: Path,
    mnist_folder: Path,
    capfd: pytest.CaptureFixture[str],
    flags: list[str],
    words: tuple[str, ...],
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    arguments = ["--config_path", str(recipe), "--data_path", str(mnist_folder), *flags]
    assert train.main([*arguments, "--output_dir", str(tmp_path / "run")]) == 2
    message = capfd.readouterr().err.strip()
    assert message.startswith("error: ") and "\n" not in message
    assert all(word in message for word in words), message
    assert not (tmp_path / "run").exists()


def test_an_empty_code_is_refused() -> None:
    with pytest.raises(UserError, match="autoencoder"):
        models.create_model("autoencoder", hidden=[])
