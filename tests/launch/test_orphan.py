"""A rank whose launcher was killed outright stops by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT

from mindspore_thor.launch.orphan import LAUNCHER, follow_launcher

# The launcher starts a go-between, as msrun is one, whose child it adopts when that ends.
LAUNCHER_PROGRAM = """
import subprocess, sys, time
from mindspore_thor.launch.job import become_subreaper
become_subreaper()
subprocess.run([sys.executable, "-c", sys.argv[1], sys.argv[2], sys.argv[3]], check=True)
time.sleep(60)
"""
BETWEEN = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', *sys.argv[1:]])"
RANK = """
import os, signal, sys, time
from pathlib import Path
from mindspore_thor.launch.orphan import LAUNCHER, follow_launcher
folder = Path(sys.argv[1])
def stop(number, frame):
    (folder / "saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
assert follow_launcher({LAUNCHER: (folder / "launcher").read_text()}, tick=0.05)
time.sleep(0.5)  # several looks: nothing happens while the launcher lives
(folder / "alive").touch()
time.sleep(60)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
def test_a_rank_stops_after_its_launcher_was_killed(tmp_path: Path) -> None:
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER_PROGRAM, BETWEEN, RANK, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    (tmp_path / "launcher").write_text(str(launcher.pid))
    try:
        _wait_for(tmp_path / "alive")
        assert not (tmp_path / "saved").exists()
        launcher.send_signal(signal.SIGKILL)  # not waited for: it stays a zombie
        _wait_for(tmp_path / "saved")
    finally:
        launcher.kill()
        launcher.wait()


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.02)


@pytest.mark.parametrize("environment", [{}, {LAUNCHER: ""}, {LAUNCHER: "none"}])
def test_without_a_launcher_there_is_nothing_to_follow(environment: dict[str, str]) -> None:
    assert not follow_launcher(environment)
