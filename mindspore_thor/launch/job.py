"""The processes of a job on this server: started, watched and ended together.

``msrun --join=True`` would wait by itself, but it kills every rank the moment one of them leaves
with a non-zero code. A run that was asked to stop saves a checkpoint and leaves with 130 or 143, so
msrun could kill rank 0 while it writes. It also turns Ctrl-C into that kill. Here msrun only starts
the processes; they become children of this one (Linux's "child subreaper"), which sees their real
exit codes and passes signals on.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from mindspore_thor.command_line import report_error
from mindspore_thor.errors import TrainingError, UserError
from mindspore_thor.launch.orphan import LAUNCHER
from mindspore_thor.signals import DEMANDS, NOTICES, stop_signals

SCHEDULER = "scheduler"
_PR_SET_CHILD_SUBREAPER = 36
_TICK = 0.2
# Seconds that the other ranks get after the first one failed: they may have found the same error,
# or be on their way out after a stop signal. What has to be saved is saved before any of them ends.
_GRACE = 5.0
_TAIL_LINES = 40
# What a process leaves with that was asked to stop, and has done so.
_STOPPED = frozenset(128 + number for number in (*DEMANDS, *NOTICES))
# What a rank leaves with that waited for another one in vain: MindSpore's exception, or its abort.
_DESERTED = (1, -signal.SIGABRT)
# msrun sets them for its processes; what an earlier job left would contradict that.
_OF_A_JOB = (
    *("MS_ROLE", "MS_NODE_ID", "MS_WORKER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT"),
    *("RANK_ID", "RANK_SIZE", "DEVICE_ID"),
    # With it, MindSpore would arrange the ranks a second time.
    "RANK_TABLE_FILE",
)
# msrun starts `python` from PATH. This one is the present interpreter, and tells which process
# became which rank. It takes itself out of PATH again.
_SHIM = """#!/bin/sh
if [ "$MS_ROLE" = MS_SCHED ]; then name={scheduler}; else name=$RANK_ID; fi
echo $$ >{folder}/pid_$name
PATH=${{PATH#*:}}
export PATH
exec {python} "$@"
"""


class Job:
    """Runs ``msrun``'s processes to their end.

    Args:
        command: The command line of msrun, which must not join.
        environment: Variables to set for the processes.
        ranks: The ranks that msrun starts here.
        log_dir: The folder that msrun writes its logs to.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        ranks: Sequence[int],
        log_dir: Path,
    ) -> None:
        self._command = list(command)
        self._environment = dict(environment)
        self._ranks = list(ranks)
        self._log_dir = log_dir
        self._shims = Path()
        self._living: set[str] = {str(rank) for rank in ranks}
        self._failed: tuple[str, int] | None = None
        self._deserted = False  # the failure is that of a suspended process
        self._deadline: float | None = None
        self._signals: list[int] = []  # as they arrived
        self._delivered: dict[str, int] = {}
        self._suspended: dict[str, int] = {}  # by which signal
        self._killed: set[str] = set()  # by this launcher

    def run(self) -> int:
        """Start the ranks, wait for all of them, and say what went wrong.

        Returns:
            0, or the exit code of the rank that failed first, or 128 + n after signal n.
        """
        try:
            self._log_dir.mkdir(parents=True, exist_ok=True)
            place = self._log_dir.resolve()
            # PATH cannot hold a folder with a colon in its name.
            self._shims = Path(
                tempfile.mkdtemp(prefix=".python-", dir=None if ":" in str(place) else place)
            )
        except OSError as error:
            raise UserError(
                f"{self._log_dir}: cannot create the folder ({error.strerror}); give --log_dir"
            ) from None
        log = _Follower(self._log(str(self._ranks[0])))
        try:
            become_subreaper()
            self._listen()
            print(f"{len(self._ranks)} processes, logs: {self._log_dir}", flush=True)
            if not self._start():
                return 1
            self._wait(log)
        finally:
            self._kill()
            shutil.rmtree(self._shims, ignore_errors=True)
        log.read(last=True)
        return self._report()

    def _log(self, name: str) -> Path:
        stem = SCHEDULER if name == SCHEDULER else f"worker_{name}"
        return self._log_dir / f"{stem}.log"

    def _listen(self) -> None:
        for number in stop_signals():
            signal.signal(number, self._forward)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal for the ranks."""
        self._signals.append(number)

    def _deliver(self) -> None:
        """Pass signals on to each rank, also to one that started after they arrived.

        A rank that gets a second one leaves without saving, so a notice and the demand after it
        count as one, and this is not done in the handler. Always as SIGTERM: SIGINT ends an
        interpreter that is still starting with a plain code 1. The scheduler gets none, it must
        live until the ranks have ended.
        """
        if not self._signals:
            return
        wanted = max(1, sum(number in DEMANDS for number in self._signals))
        for name, pid in self._processes().items():
            if name in self._living:
                for _ in range(self._delivered.get(name, 0), wanted):
                    _send(pid, signal.SIGTERM)
                    _send(pid, signal.SIGCONT)  # a suspended one could not obey
                self._delivered[name] = wanted

    def _start(self) -> bool:
        shim = self._shims / "python"
        shim.write_text(
            _SHIM.format(
                scheduler=SCHEDULER,
                folder=shlex.quote(str(self._shims)),
                python=shlex.quote(sys.executable),
            )
        )
        shim.chmod(0o755)
        environment = {**os.environ, **self._environment}
        environment["PATH"] = f"{self._shims}:{environment.get('PATH', os.defpath)}"
        environment.setdefault("GLOG_v", "3")
        environment["PYTHONUNBUFFERED"] = "1"
        environment[LAUNCHER] = str(os.getpid())
        for name in _OF_A_JOB:
            environment.pop(name, None)
        output = self._log_dir / "msrun.log"
        with output.open("w", encoding="utf-8") as stream:
            done = subprocess.run(
                self._command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the ranks through _forward alone
                check=False,
            )
        if done.returncode:
            print(
                "error: msrun failed; mend what it complains of (a port in use: set MASTER_PORT); "
                f"the end of {output}:",
                file=sys.stderr,
            )
            print(_tail(output), file=sys.stderr, flush=True)
        return done.returncode == 0

    def _processes(self) -> dict[str, int]:
        """Rank (or "scheduler") -> process number, of every process that was started."""
        found = {}
        for path in self._shims.glob("pid_*"):
            text = path.read_text()
            if text.endswith("\n"):
                found[path.name[len("pid_") :]] = int(text)
        return found

    def _wait(self, log: _Follower) -> None:
        """Return when all ranks have ended, or when the rest of them has to be killed."""
        while self._living:
            log.read()
            self._deliver()
            if not self._reap():
                # No process is left. A rank that was never seen to end could not be started.
                if self._living:
                    self._failed = self._failed or (min(self._living), 1)
                return
            if self._deadline is not None and time.monotonic() > self._deadline:
                return
            time.sleep(_TICK)

    def _reap(self) -> bool:
        """Take note of every process that has ended; return whether any is left."""
        ended: list[tuple[str, int]] = []
        left = True
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            except ChildProcessError:
                left = False
                break
            if pid == 0:
                break
            name = next((name for name, known in self._processes().items() if known == pid), None)
            if name is None:
                continue
            if os.WIFSTOPPED(status):
                self._suspended[name] = os.WSTOPSIG(status)
                continue
            self._suspended.pop(name, None)
            if not os.WIFCONTINUED(status):
                ended.append((name, os.waitstatus_to_exitcode(status)))
        # Only now: who was suspended before is known, whatever order the system reports it in.
        for name, code in ended:
            self._note(name, code)
        return left

    def _note(self, name: str, code: int) -> None:
        """Take note of a process that has ended; the first cause of a failure is remembered."""
        self._living.discard(name)
        if name in self._killed and code == -signal.SIGKILL:
            return  # a consequence
        if code and not self._cause_is_known(name):
            if self._suspended and (code in _DESERTED or name == SCHEDULER):
                self._failed, self._deserted = next(iter(self._suspended.items())), True
            else:
                self._failed = (name, code)
        if self._failed is not None and self._deadline is None:
            self._deadline = time.monotonic() + _GRACE

    def _cause_is_known(self, name: str) -> bool:
        """Return whether the failure of a process is only a consequence of what was noted before.

        A scheduler that ends with a code has noticed a dead rank, maybe of another server: the
        ranks here cannot go on, and what one of them has to say explains more. One that was killed
        is the cause itself.
        """
        if name == SCHEDULER:
            return self._failed is not None or bool(self._signals)
        if self._failed is None or self._deserted:
            return self._deserted
        return not (self._failed[0] == SCHEDULER and self._failed[1] > 0)

    def _kill(self) -> None:
        """End what is left: ranks at once, the scheduler after it has had time to leave."""
        patience = time.monotonic() + (_GRACE if not self._living and not self._failed else 0.0)
        while self._reap():
            if time.monotonic() > patience:
                for name, pid in self._processes().items():
                    self._killed.add(name)
                    _send(pid, signal.SIGKILL)
            time.sleep(_TICK)

    def _report(self) -> int:
        if self._failed is None:
            return 0
        name, code = self._failed
        if self._signals and code in (-signal.SIGTERM, *_STOPPED):
            return 128 + self._signals[0]
        if code in _STOPPED:
            return code  # somebody else stopped it, and the run has said so itself
        who = SCHEDULER if name == SCHEDULER else f"rank {name}"
        log = self._log(name)
        killed = name == SCHEDULER and code < 0  # it has nothing to say
        if self._deserted or killed:
            how = "killed" if killed else "suspended"
            report_error(
                TrainingError(
                    f"{who} was {how} by signal {abs(code)}, the ranks could not go on without it "
                    f"({self._log_dir}); continue with the last checkpoint"
                )
            )
            return 128 + abs(code)
        tail = _tail(log)
        last = next(
            (line for line in reversed(tail.splitlines()) if line.startswith("error: ")), ""
        )
        if code == 2 and last:
            report_error(UserError(f"{last[len('error: ') :]} ({who}, {log})"))
            return code
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        print(f"error: {who} {how}; the end of {log}:\n{tail}", file=sys.stderr, flush=True)
        return 128 - code if code < 0 else code


class _Follower:
    """Copies a growing log to standard output, whole lines at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self, last: bool = False) -> None:
        """Copy what is new; the last, unfinished line only when nothing more will come."""
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._offset)
                block = stream.read()
        except FileNotFoundError:
            return
        end = len(block) if last else block.rfind(b"\n") + 1
        self._offset += end
        for line in block[:end].decode("utf-8", "replace").splitlines():
            # Errors are reported at the end, with the rank; the INFO lines are MindSpore's own.
            if not line.startswith(("error: ", "[INFO] ")):
                print(line)
        sys.stdout.flush()


def become_subreaper() -> None:
    """Have orphaned descendants become this process's children.

    Raises:
        UserError: If the system is no Linux.
    """
    failed = True
    if sys.platform.startswith("linux"):
        failed = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0
    if failed:
        raise UserError("training in several processes needs Linux; use train.py for a single one")


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _tail(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "(no log)"
    kept = [line for line in lines if not line.startswith("[INFO] ")]
    return "\n".join(kept[-_TAIL_LINES:]) or "(empty)"
