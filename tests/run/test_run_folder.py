"""Run folders: who may write into which one, and that no result is lost to anything around it."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import models
import train
from mindspore_thor import files
from mindspore_thor.errors import UserError
from mindspore_thor.files import held, shown
from mindspore_thor.run import curves, loop, run_folder
from mindspore_thor.run.build import Session, build_session
from mindspore_thor.run.checkpoint import Position, read_state, save_checkpoint
from mindspore_thor.run.ckpt_file import load_file
from mindspore_thor.run.config import load_config, parse_overrides
from mindspore_thor.run.curves import is_own_picture
from mindspore_thor.run.evaluate import Evaluator
from mindspore_thor.run.loop import Trainer
from mindspore_thor.run.resume import restore
from mindspore_thor.run.run_folder import (
    RunFolder,
    check_folder,
    choose_folder,
    create_folder,
    create_fresh_folder,
)
from mindspore_thor.signals import StopRequest

EPOCHS, STEPS = 3, 4


class Runs:
    """Runs of one session, so that its graphs are compiled once."""

    def __init__(self, session: Session, start: Path) -> None:
        self.session = session
        self.evaluator = session.config.task.evaluation(session.net, session.eval_data)
        self.start = start
        save_checkpoint(
            start,
            session.weight_names,
            session.step.parameters_dict(),
            Position(config=session.config.to_dict(), steps_per_epoch=STEPS),
        )

    def __call__(self, folder: Path, state_file: Path | None = None, draw: bool = False) -> None:
        """Run to the end from the beginning, or from a state file."""
        state_file = state_file or self.start.with_suffix(".state.ckpt")
        position, values = read_state(state_file)
        assert restore(self.session, position, values, state_file) == []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(self.session.config.task), "evaluation", lambda *_: self.evaluator)
            if not draw:
                patch.setattr(loop, "draw_curves", lambda *_: True)
            Trainer(self.session, create_folder(folder, "mlp"), position, StopRequest()).run()


@pytest.fixture(scope="module")
def runs(tiny_recipe: Path, mnist_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    flags = [f"--train.epochs={EPOCHS}", "--train.keep_checkpoints=9", "--data.path"]
    config = load_config(tiny_recipe, models, parse_overrides([*flags, str(mnist_folder)]))
    return Runs(build_session(config, models), tmp_path_factory.mktemp("start") / "mlp-0_0.ckpt")


@pytest.fixture(scope="module")
def whole(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    runs(folder, draw=True)
    return folder


def numbers(path: Path) -> dict[str, bytes]:
    return {k: v.get_bytes() for k, v in load_file(path).items() if not isinstance(v, str)}


def assert_same_end(folder: Path, whole: Path) -> None:
    for name in ("mlp-3_4.ckpt", "mlp-3_4.state.ckpt", "mlp_best.ckpt"):
        assert numbers(folder / name) == numbers(whole / name), name
    times = ("train_time", "step_ms", "wall_clock")
    found, expected = (
        [
            {key: value for key, value in json.loads(line).items() if key not in times}
            for line in (path / "metrics.jsonl").read_text().splitlines()
        ]
        for path in (folder, whole)
    )
    assert found == expected and len(found) == EPOCHS


def fail_at_epoch(epoch: int, error: Exception) -> Callable[..., Any]:
    calls = []
    original = Evaluator.__call__

    def evaluate(self: Evaluator, *rest: Any) -> Any:
        calls.append(1)
        if len(calls) == epoch:
            raise error
        return original(self, *rest)

    return evaluate


@pytest.mark.parametrize(
    ("error", "every"), [(UserError("no image"), 0), (MemoryError(), 1), (RuntimeError("x"), 0)]
)
def test_a_failed_evaluation_loses_nothing(
    runs: Runs,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    every: int,
) -> None:
    """Also where no checkpoint was due."""
    options = runs.session.config.train
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "__call__", fail_at_epoch(2, error))
        object.__setattr__(options, "checkpoint_every_epochs", every)
        try:
            with pytest.raises(type(error)):
                runs(folder)
        finally:
            object.__setattr__(options, "checkpoint_every_epochs", 1)
    assert numbers(folder / "mlp-2_4.ckpt") == numbers(whole / "mlp-2_4.ckpt")
    runs(folder, folder / "mlp-2_4.state.ckpt")
    assert_same_end(folder, whole)


def test_what_was_trained_is_saved_before_it_is_evaluated(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed for its memory saves nothing afterwards."""
    seen = []

    def evaluate(self: Evaluator, *_: Any) -> dict[str, float]:
        seen.append(sorted(path.name for path in tmp_path.glob("*_4.state.ckpt")))
        return {"top_1_accuracy": 0.5, "top_5_accuracy": 0.5}

    monkeypatch.setattr(Evaluator, "__call__", evaluate)
    runs(tmp_path)
    assert seen == [[f"mlp-{k}_4.state.ckpt" for k in range(1, n)] for n in (2, 3, 4)]


@pytest.mark.parametrize("at", [(1, 0), (2, 0), (2, 3)])
def test_data_that_vanishes_in_an_epoch_loses_no_step(
    runs: Runs, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: tuple[int, int]
) -> None:
    data = runs.session.train_data
    original = data.epoch

    def epoch(index: int, start: int = 0) -> Iterator[Any]:
        for number, batch in enumerate(original(index, start), start):
            if (index + 1, number) == at:
                raise UserError("image.png: cannot be read")
            yield batch

    options = runs.session.config.train
    with monkeypatch.context() as patch:
        patch.setattr(data, "epoch", epoch)
        object.__setattr__(options, "checkpoint_every_epochs", 0)
        try:
            with pytest.raises(UserError, match="image"):
                runs(tmp_path)
        finally:
            object.__setattr__(options, "checkpoint_every_epochs", 1)
    saved = sorted(path.name for path in tmp_path.glob("*-*.state.ckpt"))
    assert saved == ([] if at == (1, 0) else [f"mlp-{at[0]}_{at[1]}.state.ckpt"])
    if saved:
        runs(tmp_path, tmp_path / saved[0])
        assert_same_end(tmp_path, whole)


@pytest.mark.parametrize(
    ("number", "call", "epoch"),
    [(errno.ENOSPC, "write", 1), (errno.EDQUOT, "write", 3), (errno.ENOSPC, "fsync", 3)],
)
def test_a_full_disk_costs_at_most_the_epoch(
    runs: Runs,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    call: str,
    epoch: int,
) -> None:
    original = getattr(os, call)

    def refuse(handle: int, *rest: Any) -> Any:
        name = os.readlink(f"/proc/self/fd/{handle}")
        if f"mlp-{epoch}_4" in name:
            raise OSError(number, os.strerror(number))
        return original(handle, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, call, refuse)
        with pytest.raises(UserError) as caught:
            runs(tmp_path)
    message = str(caught.value)
    assert f"mlp-{epoch}_4.state.ckpt" in message and os.strerror(number) in message
    assert "MB" in message and "make room" in message and "\n" not in message
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    last = tmp_path / f"mlp-{epoch - 1}_4.ckpt"
    if epoch == 1:
        assert message.endswith("then start the run anew")
        assert sorted(path.name for path in tmp_path.iterdir()) == []
        runs(tmp_path)
    else:
        # A long path makes the line lose its middle.
        assert message.endswith(f"_ckpt {shown(last)}") and len(message) <= 300
        runs(tmp_path, last.with_suffix(".state.ckpt"))
    assert_same_end(tmp_path, whole)


@pytest.mark.parametrize("error", [ValueError("backend nonsense"), OSError(28, "full"), KeyError()])
def test_no_picture_ends_a_run(
    runs: Runs,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    def fail(*_: Any, **__: Any) -> bool:
        raise error

    monkeypatch.setattr(loop, "draw_curves", fail)
    runs(tmp_path, draw=True)
    assert_same_end(tmp_path, whole)
    lines = [line for line in capsys.readouterr().out.splitlines() if "curves.png" in line]
    reason = str(error) or type(error).__name__
    assert lines == [f"no curves.png: matplotlib failed: {reason}"]


def test_a_picture_of_somebody_else_stays(
    runs: Runs, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert is_own_picture(whole / "curves.png")
    own = tmp_path / "curves.png"
    own.write_bytes(b"my picture")
    assert not is_own_picture(own)
    runs(tmp_path, draw=True)
    assert own.read_bytes() == b"my picture"
    assert capsys.readouterr().out.count("not of this program and stays") == 1
    # A new run says so before it begins.
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "curves.png").write_bytes(b"my picture")
    with pytest.raises(UserError, match=r"new: already holds a curves\.png; give another"):
        choose_folder(tmp_path / "new", None, (0, 0))


def test_of_two_runs_one_goes_on(
    tiny_recipe: Path, mnist_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    arguments = ["--config_path", str(tiny_recipe), "--data_path", str(mnist_folder)]
    with held(folder, wait=False):
        assert train.main([*arguments, "--output_dir", str(folder)]) == 2
    errors = capfd.readouterr().err
    assert errors.count("\n") == 1 and f"{folder}: another run is using this folder" in errors
    assert not list(folder.iterdir())


def test_the_folder_is_checked_again_once_it_is_held(whole: Path, tmp_path: Path) -> None:
    """Another run may have come and gone while this one was being built."""
    folder = create_folder(tmp_path / "run", "mlp")
    assert choose_folder(folder.path, None, (0, 0)) == folder.path
    (folder.path / "mlp-1_4.ckpt").touch()
    with pytest.raises(UserError, match="already holds a run"), folder.claimed(None, (0, 0)):
        pass
    own = RunFolder(whole, "mlp")
    start = whole / "mlp-2_4.state.ckpt"
    with pytest.raises(UserError, match="later checkpoints"), own.claimed(start, (2, 4)):
        pass
    with own.claimed(whole / "mlp-3_4.state.ckpt", (3, 4)):  # the lock was let go
        pass


def test_fresh_folders_are_never_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        """Stands still."""

        @staticmethod
        def now() -> datetime:
            return datetime(2026, 1, 2)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder, "datetime", Clock)
    found = {create_fresh_folder("r", "mlp").path for _ in range(20)}
    assert len(found) == 20 and all(path.parent == Path("runs") for path in found)


@pytest.mark.parametrize(
    ("content", "obstacle"),
    [
        ({}, None),
        ({"notes.txt": "mine"}, None),
        ({"config.yaml": "a: 1", "metrics.jsonl": ""}, None),  # cut before its first checkpoint
        ({"config.yaml": "a: 1"}, "already holds a config.yaml"),
        ({"config.yaml": "a: 1", "metrics.jsonl": "{}\n"}, "without checkpoints"),
        ({"mlp_best.ckpt": ""}, "already holds a run; give another --output_dir$"),
        ({"mlp-1_4.ckpt": "", "mlp-1_4.state.ckpt": ""}, "continue that run with --resume_ckpt"),
        ({"curves.png": "x"}, "already holds a curves.png"),
    ],
)
def test_what_a_new_run_may_write_into(
    tmp_path: Path, content: dict[str, str], obstacle: str | None
) -> None:
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    if obstacle is None:
        assert check_folder(tmp_path, None, (0, 0)) == []
    else:
        with pytest.raises(UserError, match=obstacle):
            check_folder(tmp_path, None, (0, 0))


@pytest.mark.parametrize("suffix", [".ckpt", ".state.ckpt"])
def test_with_the_newest_checkpoint_damaged_an_earlier_one_goes_on(
    runs: Runs,
    whole: Path,
    tmp_path: Path,
    suffix: str,
    capfd: pytest.CaptureFixture[str],
    tiny_recipe: Path,
    mnist_folder: Path,
) -> None:
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    bad = tmp_path / f"mlp-3_4{suffix}"
    content = bytearray(bad.read_bytes())
    content[len(content) // 2] ^= 1
    bad.write_bytes(content)
    arguments = ["--config_path", str(tiny_recipe), "--data_path", str(mnist_folder)]
    arguments += [f"--train.epochs={EPOCHS}", "--train.keep_checkpoints=1", "--resume_ckpt"]
    assert train.main([*arguments, str(tmp_path)]) == 2
    message = capfd.readouterr().err
    assert message.count("\n") == 1 and "damaged" in message
    advised = re.search(r"--resume_ckpt (\S+mlp-2_4\.ckpt)\)$", message.strip())
    assert advised, message
    assert train.main([*arguments, advised[1]]) == 0
    assert f"note: {bad.with_name('mlp-3_4.ckpt')} is damaged" in capfd.readouterr().out
    assert (tmp_path / f"mlp-3_4{suffix}.damaged").read_bytes() == content
    # The sound ones are not pruned in favour of the damaged one.
    assert_same_end(tmp_path, whole)


def test_modes_follow_the_umask(runs: Runs, tmp_path: Path) -> None:
    for mask in (0o077, 0o002, 0o027):
        folder = tmp_path / f"{mask:o}"
        folder.mkdir()
        before = os.umask(mask)
        try:
            session = runs.session
            state = session.step.parameters_dict()
            save_checkpoint(folder / "a-1_1.ckpt", session.weight_names, state, Position())
            own = RunFolder(folder, "mlp")
            own.write_config("a: 1")
            own.write_metrics([{"epoch": 1}])
            row = {"epoch": 1, "wall_clock": 1.0, "loss": 1.0}
            assert curves.draw_curves([row], own.curves, "title")
        finally:
            os.umask(before)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
        assert len(modes) == 5
        assert set(modes.values()) == {0o666 & ~mask}, modes
