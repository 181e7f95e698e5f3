"""Signals that ask a program to stop: which do, when at once, and what is left then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

import train
from mindspore_thor.signals import NOTICES, StopRequest
from mindspore_thor.step.train_step import TrainStep

INT, TERM = signal.SIGINT, signal.SIGTERM

# Says "ready", and ends by itself only when it is told to stop.
PROGRAM = """
import signal, sys, time
from mindspore_thor.program import run_program
from mindspore_thor.signals import StopRequest

def main():
    if "request" not in sys.argv:
        print("ready", flush=True)
        time.sleep(60)
    with StopRequest() as stop:
        stop.farewell = "nothing to save"
        if "deferred" in sys.argv:
            stop.defer()
        print("ready", flush=True)
        while not stop.requested():
            time.sleep(0.01)
        if "closed" not in sys.argv:
            print("saved")
        return stop.exit_code

run_program(main, holds_signals=True)
"""


def stopped(number: int, *arguments: str, ignored: bool = False) -> tuple[int, str, str]:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As nohup does.
        preexec_fn=(lambda: signal.signal(number, signal.SIG_IGN)) if ignored else None,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.send_signal(number)
    if ignored:
        program.send_signal(TERM)
    out, err = program.communicate(timeout=60)
    return program.returncode, out, err


def test_programs_obey_without_a_word_before_there_is_a_request() -> None:
    """That is while MindSpore is imported; no core either, which would be a negative code."""
    for number in (INT, TERM, *NOTICES):
        assert stopped(number) == (128 + number, "", "")


def test_programs_obey_at_once_while_there_is_nothing_to_save() -> None:
    assert stopped(signal.SIGHUP, "request") == (129, "nothing to save\n", "")


def test_programs_end_in_an_orderly_way_when_there_is() -> None:
    for number in (INT, *NOTICES):
        assert stopped(number, "request", "deferred") == (128 + number, "saved\n", "")
    assert stopped(signal.SIGHUP, "request", "deferred", ignored=True) == (143, "saved\n", "")


@pytest.mark.parametrize(
    ("numbers", "noted"),
    [
        ((TERM, TERM), [True, False]),
        ((INT, TERM), [True, False]),
        # A scheduler's notice, and then its demand: the saving goes on.
        ((signal.SIGUSR1, signal.SIGUSR1, TERM), [True, True, True]),
        ((signal.SIGUSR1, TERM, TERM), [True, True, False]),
        ((TERM, signal.SIGHUP), [True, True]),
    ],
)
def test_only_a_second_demand_ends_at_once(numbers: tuple[int, ...], noted: list[bool]) -> None:
    stop = StopRequest()
    assert not stop.note(numbers[0])  # nothing to save yet
    stop.defer()
    assert [stop.note(number) for number in numbers] == noted
    assert stop.exit_code == 128 + numbers[0]


def test_a_stop_before_the_first_update_leaves_a_folder_to_start_in(
    tiny_recipe: Path,
    mnist_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ["--config_path", str(tiny_recipe), "--data_path", str(mnist_folder)]
    command += ["--output_dir", str(tmp_path / "run"), "--train.epochs=1"]

    def interrupted(step: TrainStep, *inputs: Any) -> None:
        signal.raise_signal(signal.SIGUSR1)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", interrupted)
        with pytest.raises(SystemExit) as ended:
            train.main(command)
    assert ended.value.code == 128 + signal.SIGUSR1
    assert not list((tmp_path / "run").glob("*.ckpt"))
    assert train.main(command) == 0
    assert (tmp_path / "run" / "mlp-1_4.ckpt").is_file()
