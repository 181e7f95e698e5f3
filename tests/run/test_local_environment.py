"""The scripts' own virtual environment: made once, mended, never somebody else's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from places import ROOT

# A copy of the scripts, so that nothing here is touched.
SCRIPTS = ROOT / "scripts"

BASE_PYTHON = """#!/bin/sh
echo "base $*" >>"$LOG"
case "$1" in
  -c) echo "$0" ;;
  -) exit 1 ;;
  -Im) mkdir -p "$3/bin" && cp "$VENV_PYTHON" "$3/bin/python" ;;
esac
"""
VENV_PYTHON = """#!/bin/sh
[ "$1" = -c ] || echo "venv $*" >>"$LOG"
case "$*" in *install*) exit "$(cat "$PIP_CODE")" ;; esac
"""


class Sandbox:
    """A repository of its own whose only Python is a stub."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a repository"
        shutil.copytree(SCRIPTS, self.root / "scripts")
        (self.root / "pyproject.toml").write_text("[project]\n")
        self.binaries = folder / "bin"
        self.binaries.mkdir()
        for name in ("bash", "dirname", "cksum", "cat", "rm", "mkdir", "cp", "flock", "sh"):
            found = shutil.which(name)
            if found:
                (self.binaries / name).symlink_to(found)
        for name in ("python3", "python"):  # like pyenv's shims: there, but of no use
            self.program(self.binaries / name, "#!/bin/sh\nexit 127\n")
        self.program(self.binaries / "python3.10", BASE_PYTHON)
        self.program(folder / "venv_python", VENV_PYTHON)
        self.pip_code = folder / "pip_code"
        self.pip_code.write_text("0")
        self.log = folder / "log"
        self.environment = {
            "PATH": str(self.binaries),
            "LOG": str(self.log),
            "VENV_PYTHON": str(folder / "venv_python"),
            "PIP_CODE": str(self.pip_code),
        }

    @staticmethod
    def program(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def ensure(self) -> subprocess.CompletedProcess[str]:
        self.log.unlink(missing_ok=True)
        return subprocess.run(
            [
                str(shutil.which("bash")),
                "-uc",
                'set -u; . "$1"/scripts/common.sh && ensure_venv plot && echo "$PYTHON"',
                "bash",
                str(self.root),
            ],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def installs(self) -> int:
        text = self.log.read_text() if self.log.exists() else ""
        return text.count("pip install")


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


def test_the_environment_is_made_once(sandbox: Sandbox) -> None:
    done = sandbox.ensure()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(sandbox.root / ".venv" / "bin" / "python")
    assert "python3.10" in done.stderr  # the shims were passed over
    assert f"-e {sandbox.root}[plot]" in sandbox.log.read_text()
    assert sandbox.installs() == 1
    assert sandbox.ensure().returncode == 0
    assert sandbox.installs() == 0


def test_changed_dependencies_are_installed(sandbox: Sandbox) -> None:
    sandbox.ensure()
    (sandbox.root / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert sandbox.ensure().returncode == 0
    assert sandbox.installs() == 1


def test_a_failed_installation_is_reported_and_tried_again(sandbox: Sandbox) -> None:
    sandbox.pip_code.write_text("1")
    done = sandbox.ensure()
    assert done.returncode == 1
    assert "error: pip could not install" in done.stderr
    litter = sandbox.root / ".venv" / "half_installed"
    litter.touch()
    sandbox.pip_code.write_text("0")
    assert sandbox.ensure().returncode == 0
    assert not litter.exists()  # what an interrupted installation leaves is not built upon


def test_an_environment_of_somebody_else_is_never_removed(sandbox: Sandbox) -> None:
    own = sandbox.root / ".venv" / "precious"
    own.parent.mkdir()
    own.touch()
    sandbox.pip_code.write_text("1")
    assert sandbox.ensure().returncode == 1
    sandbox.pip_code.write_text("0")
    assert sandbox.ensure().returncode == 0
    assert own.exists()


def test_a_folder_with_a_colon_is_named_where_no_environment_can_be_made(
    sandbox: Sandbox,
) -> None:
    sandbox.root = sandbox.root.rename(sandbox.root.with_name("a:b"))
    done = sandbox.ensure()
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {sandbox.root} has a colon in its name, where Python makes no ")
    assert sandbox.installs() == 0


def test_without_any_python_there_is_a_clear_error(sandbox: Sandbox) -> None:
    (sandbox.binaries / "python3.10").unlink()
    done = sandbox.ensure()
    assert done.returncode == 2
    assert done.stderr.startswith("error: no Python 3.9, 3.10 or 3.11")
