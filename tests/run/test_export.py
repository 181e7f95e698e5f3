"""``export.py``: what stands in the file computes what the checkpoint does; what it refuses."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from mindspore.train import serialization

import export
import models
from mindspore_thor.data import create_data
from mindspore_thor.data.factory import image_facts
from mindspore_thor.run import export as export_module
from mindspore_thor.run.ckpt_file import load_file
from mindspore_thor.run.config import load_config
from mindspore_thor.run.tasks import TASKS

FORMATS = ("MINDIR", "ONNX")

RECIPES = {
    "mlp": "model: {name: mlp, hidden: [12, 9]}",
    "resnet20": "model: {name: resnet20, width: 0.25}",
    "autoencoder": "model: {name: autoencoder, hidden: [11, 5]}\ntrain: {task: reconstruct}",
    "transformer": "model: {name: transformer, width: 8, hidden: 8, heads: 2, encoder_layers: 1, "
    "decoder_layers: 1, dropout: 0.1, max_length: 16}\n"
    "data: {name: toy_translation, vocab_size: 40, buckets: [8, 12]}\ntrain: {task: translate}",
}
COMMON = """
optimizer: {name: sgd}
learning_rate: {schedule: constant, value: 0.1}
"""


def random_weights(net: nn.Cell) -> None:
    """Also of what training sets only slowly, such as the running statistics of BatchNorm."""
    generator = np.random.default_rng(7)
    for parameter in net.get_parameters():
        spread = generator.uniform(0.5, 1.5, parameter.shape)
        size = parameter[0].size if parameter.ndim > 1 else 10
        signs = generator.choice([-1.0, 1.0], parameter.shape) / np.sqrt(size)
        values = spread if parameter.name.endswith(("variance", "gamma")) else spread * signs
        parameter.set_data(Tensor(values.astype(np.float32)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each model with a recipe and a checkpoint; there are no data anywhere."""
    found = {}
    for name, text in RECIPES.items():
        folder = tmp_path_factory.mktemp(name)
        recipe = folder / "config.yaml"
        recipe.write_text(text + COMMON)
        net = model(recipe)
        random_weights(net)
        ms.save_checkpoint(net, str(folder / "net.ckpt"))
        found[name] = folder
    return found


def model(recipe: Path) -> nn.Cell:
    config = load_config(recipe, models)
    known = config.task.known_options(config.data, recipe.parent)
    options = {k: v for k, v in known.items() if k in models.model_options(config.model.name)}
    return models.create_model(config.model.name, **{**options, **config.model.options})


def run_file(path: Path, *inputs: np.ndarray) -> np.ndarray:
    """Run a file as its users would, without this package."""
    if path.suffix == ".mindir":
        return nn.GraphCell(ms.load(str(path)))(*map(Tensor, inputs)).asnumpy()
    session = pytest.importorskip("onnxruntime").InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    names = [item.name for item in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs)))[0]


def inputs_of(name: str, size: int) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(11)
    if name != "transformer":
        return (generator.normal(size=(size, 1, 28, 28)).astype(np.float32),)
    source, target = generator.integers(3, 40, (2, size, 12)).astype(np.int32)
    source[:, 7:] = target[:, 9:] = 0
    target[:, 0] = 1
    return source, target


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("name", RECIPES)
def test_the_file_computes_what_the_checkpoint_does(
    folders: dict[str, Path],
    tmp_path: Path,
    name: str,
    file_format: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if file_format == "ONNX":
        pytest.importorskip("onnxruntime")
    path = tmp_path / f"ä net{export_module.SUFFIXES[file_format]}"
    where = ["--checkpoint_file_path", str(folders[name] / "net.ckpt")]
    how = ["--file_format", file_format, "--batch_size", "3", "--file_name", str(path)]
    assert export.main([*where, *how]) == 0
    lines = capfd.readouterr().out.splitlines()
    shape = [3, 12] if name == "transformer" else [3, 1, 28, 28]
    printed = [line.split(": ", 1)[1] for line in lines if line.startswith("input ")]
    types = ["int32"] * 2 if name == "transformer" else ["float32"]
    assert printed == [f"{dtype} {shape}" for dtype in types]
    assert lines[-1] == f"exported: {path}" and lines[-2].startswith("checked with ")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]

    net = model(folders[name] / "config.yaml")
    ms.load_param_into_net(net, ms.load_checkpoint(str(folders[name] / "net.ckpt")))
    inputs = inputs_of(name, 3)
    expected = net.set_train(False)(*map(Tensor, inputs)).asnumpy()
    found = run_file(path, *inputs)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)
    if name == "resnet20":  # a batch normalised by its own statistics gives something else
        assert np.abs(net.set_train(True)(Tensor(inputs[0])).asnumpy() - found).max() > 0.1 * scale


@pytest.mark.parametrize("file_format", FORMATS)
def test_an_mlp_by_hand(folders: dict[str, Path], tmp_path: Path, file_format: str) -> None:
    where = ["--checkpoint_file_path", str(folders["mlp"] / "net.ckpt")]
    how = ["--file_name", str(tmp_path / "net"), "--file_format", file_format.lower()]
    assert export.main([*where, *how, "--batch_size", "2"]) == 0
    (images,) = inputs_of("mlp", 2)
    values = {
        name: value.asnumpy() for name, value in load_file(folders["mlp"] / "net.ckpt").items()
    }
    rows = images.reshape(2, -1).astype(np.float64)
    for index in (0, 2, 4):
        rows = rows @ values[f"layers.{index}.weight"].T + values[f"layers.{index}.bias"]
        rows = np.maximum(rows, 0) if index < 4 else rows
    found = run_file(tmp_path / f"net{export_module.SUFFIXES[file_format]}", images)
    np.testing.assert_allclose(found, rows, rtol=0, atol=1e-5 * np.abs(rows).max())


def test_a_graph_beyond_the_limit_is_several_files(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serialization, "TOTAL_SAVE", 1)  # KB
    where = ["--checkpoint_file_path", str(folders["mlp"] / "net.ckpt")]
    assert export.main([*where, "--file_name", str(tmp_path / "large")]) == 0
    files = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert files == {"large_graph.mindir", "large_variables/data_0"}
    net = model(folders["mlp"] / "config.yaml")
    ms.load_param_into_net(net, ms.load_checkpoint(str(folders["mlp"] / "net.ckpt")))
    (images,) = inputs_of("mlp", 1)
    expected = net(Tensor(images)).asnumpy()
    np.testing.assert_allclose(
        run_file(tmp_path / "large_graph.mindir", images), expected, rtol=1e-5
    )


def test_the_default_name_is_the_checkpoints_and_its_mode_the_umask_s(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """MindSpore itself would make the file unwritable, and its folder nobody else's."""
    for name in ("config.yaml", "net.ckpt"):
        (tmp_path / name).write_bytes((folders["mlp"] / name).read_bytes())
    tmp_path.chmod(0o755)
    assert export.main(["--checkpoint_file_path", str(tmp_path / "net.ckpt")]) == 0
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    other = tmp_path / "other"
    other.touch()
    assert (tmp_path / "net.mindir").stat().st_mode == other.stat().st_mode


def test_without_onnxruntime_it_says_that_nothing_was_checked(
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    where = ["--checkpoint_file_path", str(folders["mlp"] / "net.ckpt")]
    how = ["--file_format", "ONNX", "--file_name", str(tmp_path / "net")]
    assert export.main([*where, *how]) == 0
    assert "not checked: pip install 'mindspore_thor[onnx]'" in capfd.readouterr().out
    assert (tmp_path / "net.onnx").is_file()


class Strange(nn.Cell):
    """A model whose operator has no counterpart in ONNX."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Dense(28 * 28, 10)

    def construct(self, x: Tensor) -> Tensor:
        return ops.erfinv(ops.tanh(self.dense(x.reshape((x.shape[0], -1)))))


def refused(capfd: pytest.CaptureFixture[str], folder: Path, *arguments: str, code: int = 2) -> str:
    """Export in vain, and return the one line of the reason; the folder stays as it was."""
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert export.main(list(arguments)) == code
    printed = capfd.readouterr()
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
    assert not any(word in printed.out for word in ("exported", "checked"))
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ") and len(line) < 300
    return line


def test_a_net_that_the_format_cannot_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(RECIPES["mlp"] + COMMON)
    ms.save_checkpoint(Strange(), str(tmp_path / "net.ckpt"))
    monkeypatch.setattr(models, "create_model", lambda name, **options: Strange())
    where = ["--checkpoint_file_path", str(tmp_path / "net.ckpt")]
    line = refused(capfd, tmp_path, *where, "--file_format", "ONNX")
    assert "Strange as ONNX" in line and "Erfinv" in line and "--file_format" in line
    assert export.main(where) == 0  # MindIR holds it


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_file_that_computes_something_else_is_refused(
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    file_format: str,
) -> None:
    if file_format == "ONNX":
        pytest.importorskip("onnxruntime")
    write = ms.export

    def wrong(net: nn.Cell, *inputs: Any, **options: Any) -> None:
        other = model(folders["mlp"] / "config.yaml")
        write(other, *inputs, **options)

    monkeypatch.setattr(ms, "export", wrong)
    where = ["--checkpoint_file_path", str(folders["mlp"] / "net.ckpt")]
    how = ["--file_name", str(tmp_path / "net"), "--file_format", file_format]
    assert "something else" in refused(capfd, tmp_path, *where, *how)


def test_a_file_that_cannot_be_read_is_refused(
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("onnxruntime")

    def broken(net: nn.Cell, *inputs: Any, file_name: str, **options: Any) -> None:
        Path(file_name).write_bytes(b"no model")

    monkeypatch.setattr(ms, "export", broken)
    where = ["--checkpoint_file_path", str(folders["mlp"] / "net.ckpt")]
    how = ["--file_name", str(tmp_path / "net"), "--file_format", "ONNX"]
    assert "cannot be run" in refused(capfd, tmp_path, *where, *how)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--file_name", "there.mindir"), ("there already", "--file_name")),
        (("--file_name", "there"), ("there.mindir", "there already")),
        (("--file_name", "link"), ("link.mindir", "there already")),
        (("--file_name", "none/net"), ("none", "no such folder")),
        (("--file_name", "net.onnx"), (".onnx", "MINDIR", "--file_format")),
        (("--file_format", "AIR"), ("AIR", "MINDIR", "ONNX")),
        (("--batch_size", "0"), ("--batch_size", "at least 1")),
        (("--batch_size", "16385"), ("--batch_size", "16384")),
        (("--model.hidden", "[3]"), ("net.ckpt",)),
        (("--data.name", "mnits"), ("mnist",)),
    ],
)
def test_wrong_input_is_one_line(
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    (tmp_path / "there.mindir").write_text("precious")
    (tmp_path / "link.mindir").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path)
    where = ["--checkpoint_file_path", str(folders["mlp"] / "net.ckpt")]
    name = () if "--file_name" in arguments else ("--file_name", "net")
    line = refused(capfd, tmp_path, *where, *name, *arguments)
    for word in words:
        assert word in line, line


def test_weights_that_are_not_finite_are_refused(
    folders: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    net = model(folders["mlp"] / "config.yaml")
    next(iter(net.get_parameters())).set_data(Tensor(np.full((12, 784), np.nan, np.float32)))
    ms.save_checkpoint(net, str(tmp_path / "net.ckpt"))
    (tmp_path / "config.yaml").write_text(RECIPES["mlp"] + COMMON)
    line = refused(capfd, tmp_path, "--checkpoint_file_path", str(tmp_path / "net.ckpt"))
    assert "not finite" in line


def test_what_is_known_of_the_bundled_images_is_so() -> None:
    name = "fashion_mnist_sample"
    data = create_data(name, train=False, batch_size=10)
    facts = image_facts(name)
    assert data.num_classes == facts.num_classes
    assert data.image_shape == (len(facts.mean), facts.image_size, facts.image_size)
    config = TASKS["classify"].data_config(name=name)
    (example,) = TASKS["classify"].example(TASKS["classify"].known_options(config, Path()), 3)
    assert example.shape == (3, *data.image_shape) and example.dtype == np.float32
