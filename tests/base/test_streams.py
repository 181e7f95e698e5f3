"""Standard streams that are closed, full, or have no reader, of programs without MindSpore."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from places import ROOT

from mindspore_thor import streams

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /dev/full")

PROGRAM = """
import contextlib, os, sys
from mindspore_thor.command_line import one_line_errors
from mindspore_thor.errors import UserError
from mindspore_thor.program import run_program

@one_line_errors
def main():
    with open("kept", "w") as file:
        print("a result", flush=True)
        print("a remark", file=sys.stderr)
        with contextlib.suppress(OSError):
            os.write(2, b"of MindSpore's")  # straight to the number that a closed stream had
        file.write("whole")
    if "wrong" in sys.argv:
        raise UserError("wrong")
    if "ends" in sys.argv:
        sys.exit()
    return 0

run_program(main, result_is_printed="report" not in sys.argv)
"""


def run(folder: Path, redirections: str, *arguments: str) -> tuple[int, str, str]:
    (folder / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "program.py", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (folder / "kept").read_text() == "whole"
    return done.returncode, done.stdout, done.stderr


REMARK = "a remark\nof MindSpore's"
FULL = "standard output: No space left on device"


@pytest.mark.parametrize(
    ("redirections", "arguments", "expected"),
    [
        ("", (), (0, "a result\n", REMARK)),
        ("2>&-", (), (0, "a result\n", "")),
        (">&-", (), (0, "", REMARK)),
        ("<&- >&- 2>&-", (), (0, "", "")),
        ("2>&-", ("wrong",), (2, "a result\n", "")),
        ("2>/dev/full", ("wrong",), (2, "a result\n", "")),
        (
            ">/dev/full",
            (),
            (2, "", f"{REMARK}error: {FULL}; send it to where it can be written\n"),
        ),
        (">/dev/full", ("report",), (0, "", f"{REMARK}note: {FULL}: lines are missing there\n")),
        (">/dev/full", ("wrong",), (2, "", f"{REMARK}error: wrong\n")),
    ],
)
def test_a_stream_that_takes_nothing_ends_no_program(
    tmp_path: Path, redirections: str, arguments: tuple[str, ...], expected: tuple[int, str, str]
) -> None:
    assert run(tmp_path, redirections, *arguments) == expected


@pytest.mark.parametrize(("arguments", "code"), [((), 141), (("report",), 0), (("ends",), 141)])
def test_without_a_reader_it_ends_without_a_word(
    tmp_path: Path, arguments: tuple[str, ...], code: int
) -> None:
    """As if SIGPIPE had ended it, unless what it prints is only a report."""
    (tmp_path / "program.py").write_text(PROGRAM)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "program.py", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (code, REMARK)


def test_a_reader_that_does_not_read_is_left_when_asked_to_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "_let_go", threading.Event())
    monkeypatch.setattr(streams, "_TICK", 0.01)
    reading, writing = os.pipe()
    stream = streams._Forgiving(writing)
    try:
        sent = b"x" * 300_000  # more than a pipe holds
        done = threading.Event()

        def write_all() -> None:
            rest = memoryview(sent)
            while rest:
                rest = rest[stream.write(rest) :]
            done.set()

        thread = threading.Thread(target=write_all, daemon=True)
        thread.start()
        assert not done.wait(0.3)  # it waits for the reader
        streams.let_go()
        assert done.wait(60)
        thread.join()
        assert stream.problem is None
        assert set(os.read(reading, 1000)) == {ord("x")}
    finally:
        os.close(reading)
        os.close(writing)


def test_every_program_ends_like_the_others() -> None:
    """What is run as ``python FILE``, or ``python -m``, leaves through ``run_program``."""
    sources = [
        p for f in ("benchmarks", "scripts", "mindspore_thor") for p in ROOT.glob(f"{f}/**/*.py")
    ]
    seen = 0
    for path in [*sources, *(ROOT / f"{name}.py" for name in ("train", "eval", "export"))]:
        _, found, tail = path.read_text().rpartition('\nif __name__ == "__main__":\n')
        if found:
            seen += 1
            assert "    run_program(" in tail or path.name in ("launch.py", "command.py"), path
    assert seen > 15
