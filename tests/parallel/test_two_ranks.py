"""Real training in two processes, started as a user starts it."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import ROOT

import train
from mindspore_thor.run.checkpoint import find_checkpoint, list_checkpoints, read_state
from mindspore_thor.run.ckpt_file import load_file

evaluate = importlib.import_module("eval")
SAME = ("epoch", "step", "learning_rate", "skipped", "top_1_accuracy", "top_5_accuracy")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not sys.platform.startswith("linux") or shutil.which("bash") is None, reason="needs Linux"
    ),
]


ENVIRONMENT = {**os.environ, "MINDSPORE_THOR_PYTHON": sys.executable}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_rows(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [{key: row[key] for key in SAME} for row in rows] == [
        {key: row[key] for key in SAME} for row in expected
    ]
    np.testing.assert_allclose(
        [row["loss"] for row in rows], [row["loss"] for row in expected], rtol=1e-6
    )


def assert_same_state(path: Path, expected: Path) -> None:
    """All weights and momenta agree up to the rounding of two half sums instead of one."""
    state, wanted = (
        load_file(find_checkpoint(p).with_suffix(".state.ckpt")) for p in (path, expected)
    )
    assert state.keys() == wanted.keys()
    for name, value in wanted.items():
        if not isinstance(value, str):
            np.testing.assert_allclose(
                state[name].asnumpy(), value.asnumpy(), rtol=1e-4, atol=2e-6, err_msg=name
            )


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Path, mnist_folder: Path) -> Path:
    """The run folder of a single process."""
    folder = tmp_path_factory.mktemp("single") / "run"
    where = ["--config_path", str(tiny_recipe), "--data_path", str(mnist_folder)]
    assert train.main([*where, "--output_dir", str(folder)]) == 0
    return folder


def test_two_processes_compute_what_one_does(
    single: Path, tiny_recipe: Path, mnist_folder: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [
            *("bash", str(ROOT / "scripts" / "run_distribute_train.sh"), "2"),
            *(str(mnist_folder), str(tiny_recipe), "", "--output_dir", "run"),
        ],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "run"
    last = rows_of(folder)[-1]
    result = {key: round(last[key], 6) for key in ("top_1_accuracy", "top_5_accuracy")}
    lines = done.stdout.splitlines()
    assert lines[-1] == f"result: {result} ckpt= run/mlp-2_4.ckpt"
    assert sum(line.startswith("epoch: [1/2] loss: ") for line in lines) == 1
    (logs,) = (tmp_path / "runs" / "logs").iterdir()
    names = ["msrun.log", "scheduler.log", "worker_0.log", "worker_1.log"]
    assert sorted(path.name for path in logs.iterdir()) == names
    assert "rank 1 of 2: rank 0 writes and prints" in (logs / "worker_1.log").read_text()
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in single.iterdir()
    )
    assert_same_rows(rows_of(folder), rows_of(single))
    assert_same_state(folder, single)

    # A single process goes on where the two of them stood after their first epoch.
    where = ["--config_path", str(tiny_recipe), "--data_path", str(mnist_folder)]
    resumed = ["--resume_ckpt", str(folder / "mlp-1_4.ckpt"), "--output_dir", str(tmp_path / "on")]
    assert train.main([*where, *resumed]) == 0
    assert_same_rows(rows_of(tmp_path / "on"), rows_of(single))
    assert_same_state(tmp_path / "on", single)


def _worker(rank: int, marker: str) -> int:
    """The process number of a rank of the job whose command line has ``marker`` in it."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes()
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        wanted = {b"MS_ROLE=MS_WORKER", b"RANK_ID=%d" % rank}
        if marker.encode() in arguments and wanted <= set(variables):
            return int(entry.name)
    raise AssertionError(f"rank {rank} is not there")


def test_a_killed_rank_ends_the_job_and_the_last_checkpoint_is_good(
    single: Path, tiny_recipe: Path, mnist_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    output = tmp_path / "output"
    with output.open("w") as stream:
        job = subprocess.Popen(
            [
                *(sys.executable, "-m", "mindspore_thor.launch.command"),
                *("--log_dir", str(tmp_path / "logs"), "2", str(ROOT / "train.py")),
                *("--config_path", str(tiny_recipe), "--data_path", str(mnist_folder)),
                # Two processes go on where a single one stood.
                *("--resume_ckpt", str(single / "mlp-1_4.ckpt"), "--output_dir", str(folder)),
                *("--train.epochs", "100000"),
            ],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 240
        while not any(epoch >= 3 for epoch, _, _ in list_checkpoints(folder)):
            assert job.poll() is None and time.monotonic() < deadline, output.read_text()
            time.sleep(0.1)
        os.kill(_worker(1, str(folder)), signal.SIGKILL)
        assert job.wait(timeout=60) == 128 + signal.SIGKILL
    finally:
        job.kill()
    text = output.read_text()
    log = tmp_path / "logs" / "worker_1.log"
    assert f"error: rank 1 was killed by signal 9; the end of {log}:" in text
    with pytest.raises(AssertionError):
        _worker(0, str(folder))
    last = find_checkpoint(folder)
    epoch = int(re.fullmatch(r"mlp-(\d+)_4.ckpt", last.name)[1])  # type: ignore[index]
    position, _ = read_state(last.with_suffix(".state.ckpt"))
    assert epoch >= 3
    assert (position.epoch, position.step) == (epoch, 4)
    # The kill may come between the save before an evaluation and the one behind it.
    assert epoch - 1 <= len(position.metrics) <= epoch
    assert_same_rows(rows_of(folder)[:2], rows_of(single))
    assert evaluate.main(["--checkpoint_file_path", str(last)]) == 0
