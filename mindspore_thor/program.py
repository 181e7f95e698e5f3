"""What a program does around its ``main``: safe streams, signals, the exit code."""

from __future__ import annotations

import errno
import os
import sys
from typing import Callable, NoReturn

from mindspore_thor.command_line import EXIT_USER, report_error
from mindspore_thor.errors import UserError
from mindspore_thor.signals import hold_signals
from mindspore_thor.streams import lost_output, open_streams

EXIT_PIPE = 141
"""The shell's exit code for a program whose reader has gone (SIGPIPE)."""


def run_program(
    main: Callable[[], int], *, holds_signals: bool = False, result_is_printed: bool = True
) -> NoReturn:
    """Run a ``main`` as a process of its own, and leave with its exit code.

    Args:
        main: Returns the exit code.
        holds_signals: Whether signals are taken by a thread of their own from now on, see
            :mod:`mindspore_thor.signals`. For programs that import MindSpore: a signal in the
            middle of that would abort it with a core.
        result_is_printed: Whether what is printed is the result, so that losing it is an error.
            Else it is only a report of something that is kept in files, and its loss is noted.
    """
    # MindSpore warns of its own deprecations at import: a screenful around our one line of error.
    os.environ.setdefault("GLOG_v", "3")
    open_streams()
    if holds_signals:
        hold_signals()
    try:
        code = main()
    except SystemExit as ending:
        if not isinstance(ending.code, (int, type(None))):
            raise  # a message, which the interpreter prints
        code = ending.code or 0
        result_is_printed = True  # that of --help
    sys.stdout.flush()
    problem = lost_output()
    if code == 0 and problem is not None:
        code = _without_output(problem, result_is_printed)
    sys.exit(code)


def _without_output(problem: OSError, result_is_printed: bool) -> int:
    """Return the exit code of a program that ended well but lost some of its output."""
    if problem.errno == errno.EPIPE:  # as other tools do, without a word
        return EXIT_PIPE if result_is_printed else 0
    reason = f"standard output: {problem.strerror}"
    if result_is_printed:
        report_error(UserError(f"{reason}; send it to where it can be written"))
        return EXIT_USER
    print(f"note: {reason}: lines are missing there", file=sys.stderr)
    return 0
