"""Wrong input to ``train.py`` and ``eval.py``: one line, exit code 2, nothing overwritten."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TEST_SIZE, TRAIN_SIZE, write_idx, write_mnist
from PIL import Image

import train

eval_program = importlib.import_module("eval")

THOR = ("--optimizer.name", "thor")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def refused(
    tiny_recipe: Path, mnist_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run ``train.py`` on wrong input; return the message after checking the manners."""

    def run(*arguments: str, main: Any = train.main, created: bool = False) -> str:
        before = contents(tmp_path)
        given = list(arguments)
        if main is train.main:
            defaults = {
                "--config_path": str(tiny_recipe),
                "--data_path": str(mnist_folder),
                "--output_dir": str(tmp_path / "run"),
            }
            for flag, value in defaults.items():
                if flag not in given:
                    given += [flag, value]
        assert main(given) == 2
        captured = capfd.readouterr()
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        assert len(captured.err) <= 300
        assert "Traceback" not in captured.err
        after = contents(tmp_path)
        assert {name: after.get(name) for name in before} == before
        if not created:
            assert not (tmp_path / "run").exists() or after == before
        return captured.err

    return run


@pytest.fixture(scope="module")
def finished(
    tiny_recipe: Path, mnist_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run of one epoch."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    flags = ["--config_path", str(tiny_recipe), "--data_path", str(mnist_folder)]
    assert train.main([*flags, "--output_dir", str(folder), "--train.epochs=1"]) == 0
    return folder


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--config_path", "nowhere.yaml"), ("nowhere.yaml", "--config_path")),
        (("--data_path", "nowhere"), ("nowhere", "does not exist")),
        (("--data.name", "imagenett"), ("imagenett", "imagenet")),
        (("--data.batch_size", str(TRAIN_SIZE + 1)), ("batch_size 41", "40", "smaller")),
        (("--model.num_classes", "4"), ("4", "label")),
        (("--model.num_classes", "0"), ("num_classes", "0")),
        (("--data.image_size", "32"), ("image_size", "32")),
        ((*THOR, "--optimizer.damping", "-0.1"), ("damping", "-0.1")),
        ((*THOR, "--optimizer.factor_interval", "0"), ("factor_interval", "0")),
        ((*THOR, "--optimizer.inverse_interval", "0"), ("inverse_interval", "0")),
        ((*THOR, "--optimizer.momentum", "-1"), ("momentum", "-1")),
        (("--learning_rate.initial", "-0.1"), ("initial", "-0.1")),
        (("--learning_rate.end_epoch", "0"), ("end_epoch", "0")),
        (("--train.sed", "3"), ("--train.sed", "--train.seed")),
        (("--resume_ckpt", "nowhere.ckpt"), ("nowhere.ckpt", "no such")),
        (("--output_dir", "/proc/nowhere"), ("/proc/nowhere", "--output_dir")),
        (("--output_dir",), ("--output_dir", "expected one argument")),
        *[
            ((flag, text), (flag, "is empty; give a path"))
            for flag in ("--config_path", "--data_path", "--output_dir", "--resume_ckpt")
            for text in ("", " ")
        ],
        (("--output_dir", "x" * 5000), ("--output_dir", "too long", "give another path")),
        ((*THOR, "--damping", "0"), ("damping", "above 0")),
        ((*THOR, "--optimizer.damping", "0"), ("damping", "above 0")),
        ((*THOR, "--optimizer.trace_include_damping", "flase"), ("'flase'", "true or false")),
        ((*THOR, "--optimizer.inverse_interval", str(2**31)), ("inverse_interval", "at most")),
        (("--train.epochs", "1:30"), ("train.epochs", "'1:30'")),
        (("--train.epochs", "9" * 5000), ("--train.epochs", "5000 characters")),
        (("--data.eval_batch_size", str(10**9)), ("eval_batch_size", "at most 16384")),
        (("--data.num_workers", "9" * 400), ("--data.num_workers", "400 characters")),
        (("--model.hidden", "[1000000000000]"), ("hidden", "131072")),
    ],
)
def test_wrong_arguments(
    refused: Callable[..., str], arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    message = refused(*arguments)
    for part in parts:
        assert part in message


def test_a_path_in_a_circle(refused: Callable[..., str], tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    for flag in ("--config_path", "--data_path", "--output_dir", "--resume_ckpt"):
        message = refused(flag, str(loop))
        assert flag in message
        assert "symbolic links" in message


def test_no_recipe_at_all(capfd: pytest.CaptureFixture[str]) -> None:
    assert train.main([]) == 2
    assert "--config_path is missing" in capfd.readouterr().err
    assert eval_program.main([]) == 2
    assert "--checkpoint_file_path is missing" in capfd.readouterr().err


def test_malformed_yaml(refused: Callable[..., str], tmp_path: Path) -> None:
    recipe = tmp_path / "broken.yaml"
    recipe.write_text("model: {name: mlp}\ndata: [unclosed\n")
    message = refused("--config_path", str(recipe))
    assert "broken.yaml:" in message
    assert "malformed YAML" in message


def test_an_empty_data_folder(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in refused("--data_path", str(tmp_path / "empty"))


def test_a_label_outside_the_classes(refused: Callable[..., str], tmp_path: Path) -> None:
    folder = write_mnist(tmp_path / "odd")
    labels = np.arange(TEST_SIZE) % 10
    labels[5] = 10
    write_idx(folder / "t10k-labels-idx1-ubyte", labels)
    message = refused("--data_path", str(folder))
    assert "t10k-labels-idx1-ubyte" in message
    assert "10" in message


def test_a_truncated_image(refused: Callable[..., str], tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "tree" / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.jpeg")
    broken = tmp_path / "tree" / "train" / "dog" / "2.jpeg"
    broken.write_bytes(broken.read_bytes()[:300])
    flags = ("--data.name=imagenet", "--data.image_size=32", "--data.batch_size=2")
    message = refused("--data_path", str(tmp_path / "tree"), *flags, created=True)
    assert "2.jpeg" in message


def test_a_folder_that_holds_a_run(refused: Callable[..., str], finished: Path) -> None:
    before = contents(finished)
    message = refused("--output_dir", str(finished))
    assert "already holds a run" in message
    assert f"--resume_ckpt {finished}" in message
    assert contents(finished) == before


def test_a_finished_run_has_nothing_left(refused: Callable[..., str], finished: Path) -> None:
    before = contents(finished)
    message = refused("--resume_ckpt", str(finished), "--train.epochs=1")
    assert "--train.epochs" in message
    assert contents(finished) == before


def test_weights_without_their_state(
    refused: Callable[..., str], finished: Path, tmp_path: Path
) -> None:
    lonely = tmp_path / "mlp-1_4.ckpt"
    lonely.write_bytes((finished / "mlp-1_4.ckpt").read_bytes())
    assert "mlp-1_4.state.ckpt" in refused("--resume_ckpt", str(lonely))
    best = finished / "mlp_best.ckpt"
    assert "mlp_best.state.ckpt" in refused("--resume_ckpt", str(best))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--model.hidden", "[13]"), ("model.hidden", "[12]", "[13]")),
        (("--data.batch_size", "5"), ("data.batch_size", "10", "5")),
        (("--train.seed", "6"), ("train.seed", "5", "6")),
        (("--optimizer.name", "adamw", "--optimizer.weight_decay=0"), ("optimizer.name", "adamw")),
    ],
)
def test_resuming_something_else(
    refused: Callable[..., str],
    finished: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    parts: tuple[str, ...],
) -> None:
    before = contents(finished)
    message = refused("--resume_ckpt", str(finished / "mlp-1_4.ckpt"), *arguments)
    assert "mlp-1_4.state.ckpt" in message
    assert contents(finished) == before
    for part in parts:
        assert part in message


def test_resuming_with_other_images(
    refused: Callable[..., str], finished: Path, tmp_path: Path
) -> None:
    folder = write_mnist(tmp_path / "more", train=TRAIN_SIZE + 10)
    flags = ("--data_path", str(folder), "--train.epochs=3")
    message = refused("--resume_ckpt", str(finished), *flags)
    assert "4 batches per epoch" in message
    assert "5" in message


def test_an_earlier_checkpoint_does_not_write_over_later_ones(
    refused: Callable[..., str], finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in finished.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for suffix in (".ckpt", ".state.ckpt"):
        (folder / f"mlp-2_4{suffix}").write_bytes((finished / f"mlp-1_4{suffix}").read_bytes())
    flags = ("--resume_ckpt", str(folder / "mlp-1_4.ckpt"), "--output_dir", str(folder))
    message = refused(*flags, "--train.epochs=3")
    assert "mlp-2_4.ckpt" in message
    assert "--output_dir" in message


@pytest.mark.parametrize("kind", ["weights", "state"])
def test_a_truncated_checkpoint(
    refused: Callable[..., str], finished: Path, tmp_path: Path, kind: str
) -> None:
    for suffix in (".ckpt", ".state.ckpt"):
        content = (finished / f"mlp-1_4{suffix}").read_bytes()
        (tmp_path / f"mlp-1_4{suffix}").write_bytes(content[: len(content) // 2])
    path = str(tmp_path / "mlp-1_4.ckpt")
    if kind == "state":
        message = refused("--resume_ckpt", path)
    else:
        flags = ("--config_path", str(finished / "config.yaml"))
        message = refused("--checkpoint_file_path", path, *flags, main=eval_program.main)
    assert "damaged or truncated" in message


def test_evaluating_a_checkpoint_of_another_architecture(
    refused: Callable[..., str], finished: Path
) -> None:
    flags = ("--checkpoint_file_path", str(finished), "--model.hidden=[9]")
    message = refused(*flags, main=eval_program.main)
    assert "another architecture" in message
    assert "(12, 784), here (9, 784)" in message


def test_evaluating_without_any_recipe(
    refused: Callable[..., str], finished: Path, tmp_path: Path
) -> None:
    lonely = tmp_path / "mlp-1_4.ckpt"
    lonely.write_bytes((finished / "mlp-1_4.ckpt").read_bytes())
    message = refused("--checkpoint_file_path", str(lonely), main=eval_program.main)
    assert "config.yaml" in message
    assert "--config_path" in message
