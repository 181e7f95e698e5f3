"""Runs on an Ascend machine what CI only compiles, and prints a report.

python -m benchmarks.ascend.check [--list]        (scripts/check_ascend.sh calls it)
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import benchmarks.needs  # noqa: F401  (first, before what it asks for)

# isort: split
from benchmarks.ascend.dry_run import read_log, report
from benchmarks.ascend.graphs import LEVELS, Setting, required
from mindspore_thor.command_line import Parser, one_line_errors
from mindspore_thor.errors import UserError
from mindspore_thor.program import run_program

HERE = Path(__file__).resolve().parent
DEVICES = "/dev"


class Job(NamedTuple):
    """One process (or group of ranks) of the check.

    Attributes:
        title: its heading in the report.
        command: what is run, in the repository's folder.
        setting: level and ranks where the log names kernels, else None.
        devices: how many it needs.
    """

    title: str
    command: tuple[str, ...]
    setting: Setting | None
    devices: int


def jobs() -> list[Job]:
    """Everything that is checked, in this order."""
    script, python = str(HERE / "compile.py"), sys.executable
    cases = tuple(map(str, required()))
    found = [
        Job(
            f"Every graph compiled and run once, {level}",
            (python, script, "--run", "--level", level, *cases),
            Setting(level, 1),
            1,
        )
        for level in LEVELS
    ]
    found.append(Job("Inverses", (python, str(HERE / "residual.py")), None, 1))
    launch = (python, "-m", "mindspore_thor.launch.command", "2", script)
    found += [
        Job(
            f"Every graph compiled and run once on two ranks, {level}",
            (*launch, "--run", "--ranks", "2", "--level", level, *cases),
            None,
            2,
        )
        for level in LEVELS
    ]
    return found


def devices(folder: str = DEVICES) -> int:
    """How many Ascend devices the driver shows."""
    return len(list(Path(folder).glob("davinci[0-9]*")))


def listing() -> str:
    """The commands, one a line below its title."""
    return "\n".join(f"# {job.title}\n{shlex.join(job.command)}" for job in jobs())


def _head() -> str:
    lines = [f"- MindSpore {version('mindspore')}, Python {platform.python_version()}"]
    lines += [f"- {platform.platform()}, {devices()} device(s)"]
    lines.append(f"- CANN: {os.environ.get('ASCEND_HOME_PATH', 'ASCEND_HOME_PATH is not set')}")
    tool = shutil.which("npu-smi")
    if tool:
        shown = subprocess.run([tool, "info"], capture_output=True, text=True, check=False)
        lines.append(f"\n```\n{shown.stdout.strip()}\n```")
    return "\n".join(lines)


def run(job: Job, folder: Path) -> tuple[bool, str]:
    """Run a job; returns whether it passed, and its part of the report."""
    log = folder / "log"
    variables = {**os.environ, "GLOG_v": "3", "MS_SUBMODULE_LOG_v": "{DEVICE:1}"}
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as errors:
        done = subprocess.run(
            job.command,
            cwd=HERE.parents[1],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            check=False,
        )
    seconds = time.perf_counter() - start
    text = f"{'passed' if done.returncode == 0 else 'FAILED'} after {seconds:.0f} s\n\n"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    if job.setting is not None:
        text += report(job.setting, read_log(lines)) + "\n"
    text += "\n".join(done.stdout.strip().splitlines()[-60:])
    if done.returncode:
        shown = [line for line in lines if not line.startswith(("[INFO]", "[graph]"))]
        text += "\n\n```\n" + "\n".join(shown[-40:]) + "\n```"
    return done.returncode == 0, text


def check(chosen: Sequence[Job]) -> bool:
    """Run jobs and print the report; returns whether all passed."""
    good = True
    print(f"# mindspore_thor on Ascend\n\n{_head()}\n", flush=True)
    for job in chosen:
        print(f"## {job.title}\n", flush=True)
        if job.devices > devices():
            print(f"left out: needs {job.devices} devices\n", flush=True)
            continue
        with tempfile.TemporaryDirectory() as folder:
            passed, text = run(job, Path(folder))
        good = good and passed
        print(text + "\n", flush=True)
    return good


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """List or check; returns the exit code: 1 where something failed, 2 without an Ascend."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    args = parser.parse_args(argv)
    if args.list:
        print(listing())
        return 0
    if devices() == 0:
        raise UserError(
            "no Ascend device (/dev/davinci*): run this on a machine that has one, with CANN's "
            "set_env.sh sourced"
        )
    return 0 if check(jobs()) else 1


if __name__ == "__main__":
    run_program(main)
