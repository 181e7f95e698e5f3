"""``train.py`` and ``eval.py`` called in-process: what a run leaves behind and how it ends."""

from __future__ import annotations

import importlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
import yaml
from PIL import Image
from places import ROOT

import models
import train
from mindspore_thor.linalg import inverse
from mindspore_thor.run.build import build_session
from mindspore_thor.run.checkpoint import read_state
from mindspore_thor.run.ckpt_file import load_file
from mindspore_thor.run.config import load_config
from mindspore_thor.run.loop import Trainer
from mindspore_thor.run.progress import Progress
from mindspore_thor.run.resume import restore
from mindspore_thor.run.run_folder import create_folder
from mindspore_thor.signals import StopRequest

eval_program = importlib.import_module("eval")
TIMES = ("train_time", "step_ms", "wall_clock")

Arguments = list[str]


@pytest.fixture
def arguments(tiny_recipe: Path, mnist_folder: Path, tmp_path: Path) -> Arguments:
    return [
        *("--config_path", str(tiny_recipe), "--data_path", str(mnist_folder)),
        *("--output_dir", str(tmp_path / "run")),
    ]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows_of(folder)]


def parameters(path: Path) -> dict[str, bytes]:
    return {
        name: value.asnumpy().tobytes()
        for name, value in load_file(path).items()
        if not isinstance(value, str)
    }


def test_a_run_leaves_everything_behind(
    arguments: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*arguments, "--train.keep_checkpoints", "1"]) == 0
    printed = capfd.readouterr().out
    folder = tmp_path / "run"
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.yaml",
        "curves.png",
        "metrics.jsonl",
        "mlp-2_4.ckpt",
        "mlp-2_4.state.ckpt",
        "mlp_best.ckpt",
    ]
    with Image.open(folder / "curves.png") as picture:
        picture.load()
        assert min(picture.size) > 500
    number = r"\d+\.\d{3}"
    for epoch in (1, 2):
        line = rf"epoch: \[{epoch}/2\] loss: \d+\.\d+, epoch time: {number} s, "
        assert re.search(rf"^{line}per step time: {number} ms$", printed, re.MULTILINE), printed
    rows = rows_of(folder)
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 4), (2, 8)]
    for row in rows:
        expected = 0.05 * (1 - row["epoch"] / 4) ** 2
        assert row["learning_rate"] == pytest.approx(expected, rel=1e-6)
        assert row["skipped"] == 0
        assert "failed_inversions" not in row  # SGD inverts nothing
        assert 0 < row["loss"] < 10
        assert 0 <= row["top_1_accuracy"] <= row["top_5_accuracy"] <= 1
    resolved = yaml.safe_load((folder / "config.yaml").read_text())
    assert resolved["model"] == {
        "name": "mlp",
        "num_classes": 10,
        "in_channels": 1,
        "image_size": 28,
        "hidden": [12],
    }
    assert resolved["train"]["keep_checkpoints"] == 1
    names = set(ms.load_checkpoint(str(folder / "mlp-2_4.ckpt")))
    plain = models.create_model("mlp", hidden=[12], in_channels=1, image_size=28)
    assert names == set(plain.parameters_dict())

    last = rows[-1]
    for extra in ([], ["--config_path", arguments[1], "--data_path", arguments[3]]):
        where = ["--checkpoint_file_path", str(folder / "mlp-2_4.ckpt")]
        assert eval_program.main([*where, *extra]) == 0
        result = {key: round(last[key], 6) for key in ("top_1_accuracy", "top_5_accuracy")}
        expected_line = f"result: {result} ckpt= {folder / 'mlp-2_4.ckpt'}\n"
        assert capfd.readouterr().out.splitlines(keepends=True)[-1] == expected_line


@pytest.mark.parametrize("every", [0, 2])
def test_evaluation_and_checkpoints_come_when_asked_for(
    arguments: Arguments, tmp_path: Path, every: int
) -> None:
    options = {"epochs": 3, "eval_every": every, "checkpoint_every_epochs": every}
    flags = [f"--train.{key}={value}" for key, value in {**options, "keep_best": False}.items()]
    assert train.main([*arguments, *flags]) == 0
    evaluated = ["top_1_accuracy" in row for row in rows_of(tmp_path / "run")]
    assert evaluated == [False, every == 2, True]
    checkpoints = {path.name for path in (tmp_path / "run").glob("*.ckpt")}
    assert checkpoints == {
        f"mlp-{epoch}_4{suffix}"
        for epoch in ((2, 3) if every else (3,))
        for suffix in (".ckpt", ".state.ckpt")
    }


SECOND_ORDER = ["--optimizer.factor_interval", "2", "--optimizer.inverse_interval", "3"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "anew", "again"),
    [
        (["--optimizer.momentum", "0.9"], "1_1.ckpt", ()),
        (
            ["--optimizer.name", "thor", *SECOND_ORDER],
            "2_1.state.ckpt",
            ("1_1", "1_2", "1_3", "1_4", "2_2", "2_3"),
        ),
    ],
    ids=["sgd", "thor"],
)
def test_resuming_from_any_step_changes_no_bit(
    arguments: Arguments, tmp_path: Path, optimizer: Arguments, anew: str, again: Sequence[str]
) -> None:
    """The whole program; tests/test_resume.py has the state of every method."""
    every_step = [*optimizer, "--train.checkpoint_every_steps=1", "--train.keep_checkpoints=99"]
    assert train.main([*arguments, *every_step]) == 0
    whole = tmp_path / "run"
    final = parameters(whole / "mlp-2_4.state.ckpt")
    weights = parameters(whole / "mlp-2_4.ckpt")

    def check(part: Path) -> None:
        assert parameters(part / "mlp-2_4.state.ckpt") == final, part.name
        assert parameters(part / "mlp-2_4.ckpt") == weights, part.name
        assert timeless(part) == timeless(whole), part.name

    # Everything built anew; the file of weights or the file of state, either one names the pair.
    part = tmp_path / "anew"
    where = ["--output_dir", str(part), "--resume_ckpt", str(whole / f"mlp-{anew}")]
    assert train.main([*arguments[:4], *every_step, *where]) == 0
    check(part)
    # The other steps with one session and its compiled graphs.
    config = load_config(whole / "config.yaml", models)
    session = build_session(config, models)
    for stop in again:
        position, values = read_state(whole / f"mlp-{stop}.state.ckpt")
        assert restore(session, position, values, whole) == []
        folder = create_folder(tmp_path / f"again-{stop}", "mlp")
        Trainer(session, folder, position, StopRequest()).run()
        check(folder.path)


def send_after(monkeypatch: pytest.MonkeyPatch, number: int, at: tuple[int, int]) -> None:
    """Let a signal arrive while the given update is being reported."""
    original = Progress.step

    def step(self: Progress, epoch: int, step: int, *rest: Any) -> None:
        if (epoch, step) == at:
            signal.raise_signal(number)
        original(self, epoch, step, *rest)

    monkeypatch.setattr(Progress, "step", step)


@pytest.fixture(scope="module")
def whole(tiny_recipe: Path, mnist_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    where = ["--config_path", str(tiny_recipe), "--data_path", str(mnist_folder)]
    assert train.main([*where, "--output_dir", str(folder)]) == 0
    return folder


@pytest.mark.parametrize(
    ("number", "code", "at"),
    # Not SIGINT: MindSpore takes it over in a process that does not hold it, as pytest's.
    [(signal.SIGTERM, 143, (1, 3)), (signal.SIGTERM, 143, (1, 4)), (signal.SIGTERM, 143, (2, 4))],
)
def test_a_signal_saves_and_the_run_continues_in_its_folder(
    arguments: Arguments,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    whole: Path,
    number: int,
    code: int,
    at: tuple[int, int],
) -> None:
    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        send_after(patch, number, at)
        assert train.main(arguments) == code
    assert signal.getsignal(number) is handler
    stopped = tmp_path / "run" / f"mlp-{at[0]}_{at[1]}.ckpt"
    assert stopped.is_file()
    assert f"--resume_ckpt {stopped}" in capfd.readouterr().out
    assert train.main([*arguments, "--resume_ckpt", str(tmp_path / "run")]) == 0
    for name in ("mlp-2_4.ckpt", "mlp-2_4.state.ckpt"):
        assert parameters(tmp_path / "run" / name) == parameters(whole / name)
    assert timeless(tmp_path / "run") == timeless(whole)
    rows = rows_of(tmp_path / "run")
    assert rows[0]["wall_clock"] < rows[1]["wall_clock"]


def test_non_finite_updates_stop_the_training(
    arguments: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    blow_up = ["--learning_rate=1e30", "--train.max_skipped_updates=3"]
    assert train.main([*arguments, *blow_up]) == 1
    errors = capfd.readouterr().err
    assert errors.count("\n") == 1
    assert errors.startswith("error: stopped at epoch ")
    assert "3 updates in a row" in errors
    assert "lower the learning rate" in errors
    assert not list((tmp_path / "run").glob("*_best.ckpt"))


def test_a_few_skipped_updates_are_counted_and_shown(
    arguments: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    blow_up = ["--learning_rate=1e30", "--train.max_skipped_updates=99", "--train.epochs=1"]
    assert train.main([*arguments, *blow_up]) == 0
    row = rows_of(tmp_path / "run")[0]
    assert row["skipped"] >= 2
    assert f"skipped updates: {row['skipped']}\n" in capfd.readouterr().out
    assert np.isfinite(row["loss"])


def test_failed_inversions_are_counted_and_shown(
    arguments: Arguments,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No inverse in float32 is free of a residual, and here none passes."""
    monkeypatch.setattr(inverse, "RESIDUAL_LIMIT", 0.0)
    flags = ["--optimizer.name=kfac", "--optimizer.method=inverse", "--train.epochs=1"]
    assert train.main([*arguments, *flags]) == 0
    row = rows_of(tmp_path / "run")[0]
    assert row["failed_inversions"] >= 1
    assert f"failed inversions: {row['failed_inversions']}\n" in capfd.readouterr().out
    assert np.isfinite(row["loss"])


@pytest.mark.parametrize(("include", "accepted"), [("true", 2), ("false", 8)])
def test_what_the_trace_rule_decides_is_shown(
    include: str,
    accepted: int,
    arguments: Arguments,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Two layers, four refreshes: beside an overwhelming lam in it the trace does not change."""
    flags = ["--optimizer.name=thor", "--optimizer.trace_thresholds=[0, 0]", "--train.epochs=1"]
    flags += [f"--optimizer.trace_include_damping={include}", "--damping.schedule=constant"]
    flags += ["--optimizer.factor_interval=1", "--optimizer.inverse_interval=1"]
    flags += [f"--train.layer_table={include}"]
    assert train.main([*arguments, *flags, "--damping.value=1e12"]) == 0
    row = rows_of(tmp_path / "run")[0]
    found = (row["trace_accepted"], row["trace_kept"], row["trace_stopped"])
    assert found == (accepted, 8 - accepted, 0)
    line = f"ms, inverses renewed: {accepted}, kept: {8 - accepted}\n"
    out = capfd.readouterr().out
    assert line in out
    # The whole table of the layers where it was asked for.
    rows = re.findall(r"(?m)^layers\.\d +Dense +weight THOR, bias plain +0 +0 +no", out)
    assert len(rows) == (2 if include == "true" else 0)


def test_missing_curves_are_explained_once(
    arguments: Arguments,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    assert train.main(arguments) == 0
    assert len(rows_of(tmp_path / "run")) == 2
    assert not (tmp_path / "run" / "curves.png").exists()
    lines = [line for line in capfd.readouterr().out.splitlines() if "curves.png" in line]
    assert len(lines) == 1 and "pip install matplotlib" in lines[0]


def test_without_an_output_folder_a_fresh_one_is_made(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the recipe's name, and that of the method where one was chosen."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(
        f"base: {arguments[1]}\nmethods: {{slow: {{}}, thor: {{}}}}\n"
    )
    chosen = ["--config_path", "own.yaml", *arguments[2:4], "--method", "slow"]
    for start in (chosen, arguments[:4]):
        assert train.main([*start, "--train.epochs=1"]) == 0
    folders = sorted((tmp_path / "runs").iterdir())
    assert len(folders) == 2
    for folder, name in zip(folders, ("own_slow", "tiny")):
        assert re.match(rf"{name}-\d{{8}}-\d{{6}}", folder.name)
    assert all((folder / "mlp-1_4.ckpt").is_file() for folder in folders)


def test_the_programs_run_as_programs(arguments: Arguments, tmp_path: Path) -> None:
    """From another directory, with relative paths and a real exit code."""

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )

    done = run(str(ROOT / "train.py"), *arguments[:4], "--output_dir=here", "--train.epochs=1")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    checkpoint = Path("here") / "mlp-1_4.ckpt"
    done = run(str(ROOT / "eval.py"), "--checkpoint_file_path", str(checkpoint))
    assert done.returncode == 0, done.stderr
    pattern = r"result: \{'top_1_accuracy': [\d.]+, 'top_5_accuracy': [\d.]+\} ckpt= "
    assert re.fullmatch(pattern + re.escape(str(checkpoint)), done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_program_stops_on_a_signal(
    arguments: Arguments, tmp_path: Path, number: int, code: int
) -> None:
    """In a process of its own, where SIGINT does not reach MindSpore's handler."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments, "--train.epochs=100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch: [3/"):
                break
        process.send_signal(number)
        rest, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    last = rest.splitlines()[-1]
    assert last.startswith("stopped by a signal; continue with --resume_ckpt ")
    assert load_file(Path(last.split()[-1]))


def test_help_lists_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        train.main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "--train.max_skipped_updates" in printed
    assert "factor_interval" in printed
    assert "warmup_polynomial" in printed
