"""The check for Ascend machines, up to the list it builds: there is no Ascend here."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from benchmarks.ascend import check, residual
from benchmarks.ascend.graphs import Case, Setting, parse_cases, required
from mindspore_thor.errors import UserError

SCRIPT = ROOT / "scripts" / "check_ascend.sh"

without_ascend = pytest.mark.skipif(check.devices() > 0, reason="this machine has an Ascend")


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MINDSPORE_THOR_PYTHON": sys.executable}
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )


@without_ascend
def test_without_an_ascend_it_says_so_in_one_line() -> None:
    done = script()
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.count("\n") == 1 and "no Ascend device" in done.stderr
    assert check.main([]) == 2


def test_an_unknown_argument() -> None:
    done = script("--lst")
    assert done.returncode == 2 and "--lst" in done.stderr


def test_the_list() -> None:
    """All that CI compiles, at both levels, on one rank and on two; and the inverses."""
    done = script("--list")
    assert done.returncode == 0, done.stderr
    commands = [shlex.split(line) for line in done.stdout.splitlines() if line[:1] != "#"]
    assert len(commands) == len(check.jobs()) == 5
    graphs = [command for command in commands if "--run" in command]
    assert sorted(c[c.index("--level") + 1] for c in graphs) == ["O0", "O0", "O1", "O1"]
    assert sum("mindspore_thor.launch.command" in command for command in graphs) == 2
    for command in graphs:
        assert (
            parse_cases(a for a in command if a.startswith(("resnet", "transformer"))) == required()
        )
    for command in commands:
        assert all(Path(word).is_file() for word in command if word.endswith(".py"))


def test_what_is_required() -> None:
    found = set(required())
    translation = [("transformer_base", method) for method in ("thor", "lngd")]
    for model, method in [
        *translation,
        ("resnet20", "thor"),
        ("resnet20", "lngd"),
        ("resnet50", "thor"),
    ]:
        assert {Case(model, method, kind) for kind in ("plain", "factor", "inverse")} <= found
    assert {Case("resnet20", "fngd", kind) for kind in ("plain", "factor")} <= found
    # Every model's graphs are compared with the only one of SGD.
    assert {Case(model, "sgd", "step") for model in ("resnet20", "resnet50")} <= found


@pytest.mark.parametrize("text", ["resnet20", "resnet20:thor:plain:x", "resnet20:thor:all"])
def test_a_wrong_case(text: str) -> None:
    with pytest.raises(UserError, match="model:method"):
        parse_cases([text])


def test_devices_are_counted(tmp_path: Path) -> None:
    for name in ("davinci0", "davinci1", "davinci_manager"):
        (tmp_path / name).touch()
    assert check.devices(str(tmp_path)) == 2


def test_a_job_that_passes_and_one_that_fails(tmp_path: Path) -> None:
    log = '[graph] {"case": ["m", "n", "plain"], "at": "%s"%s}'
    begin, end = log % ("begin", ""), log % ("end", ', "seconds": 2.0, "error": ""')
    code = f"import sys; print('out'); print({begin!r}, {end!r}, sep='\\n', file=sys.stderr)"
    job = check.Job("t", (sys.executable, "-c", code), Setting("O0", 1), 1)
    passed, text = check.run(job, tmp_path)
    assert passed and "| m:n:plain |" in text and text.endswith("out")
    broken = check.Job("t", (sys.executable, "-c", "raise OSError('no')"), None, 1)
    passed, text = check.run(broken, tmp_path)
    assert not passed and "OSError: no" in text and text.startswith("FAILED")


def test_the_inverses_hold_on_cpu() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "ascend" / "residual.py")]
    done = subprocess.run(
        [*command, "--target", "CPU"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and "FAILED" not in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("4 of 4") == len(residual.SIZES) * len(residual.CONDITIONS)
