"""Nets of mindcv, one of each family, with THOR, KFAC and FNGD: a table of what works.

    python benchmarks/mindcv_matrix.py [--nets NET,...] [--methods NAME,...] [--limit SECONDS]
        [--most ROWS] [--results_dir R]
    python benchmarks/mindcv_matrix.py --report [--check]

A row is a net with a method: five steps on one batch of noise at the smallest image size. It says
which layers the method moves, how long compilation takes, whether the loss falls, and whether the
net's checkpoint loads into the plain net. Each row has a process of its own and a limit of CPU
seconds; rows that are stored are not repeated (delete the file to repeat one). ``--report`` writes
the table in ``docs/mindcv.md``; ``--check`` only says whether it is up to date.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import benchmarks.needs  # noqa: F401  (first, before what it asks for)

# isort: split
from benchmarks.harness.spec import RESULTS, ROOT
from benchmarks.matrix.nets import METHODS, NETS, WANTED
from benchmarks.matrix.rows import path_of, run_here, run_row
from mindspore_thor.command_line import Parser, one_line_errors, path_argument, whole_number
from mindspore_thor.errors import UserError, quoted
from mindspore_thor.program import run_program

LIMIT = 420


def _wanted(option: str, text: str | None, known: Iterable[str]) -> list[str]:
    names = list(known) if text is None else list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in known:
            raise UserError(f"{option}: unknown {quoted(name)}; use some of {','.join(known)}")
    return names


def order(nets: Sequence[str], methods: Sequence[str]) -> list[tuple[str, str]]:
    """Rows in the order of their runs: what says most comes first.

    Args:
        nets: Keys of :data:`NETS`.
        methods: Keys of :data:`METHODS`.
    """
    first = [net for net in nets if net in list(NETS)[:WANTED]]
    others = [net for net in nets if net not in first]
    return [(net, method) for part in (first, others) for method in methods for net in part]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", metavar="NET,...", help=f"[{','.join(NETS)}]")
    parser.add_argument("--methods", metavar="NAME,...", help=f"[{','.join(METHODS)}]")
    parser.add_argument(
        "--limit",
        type=whole_number,
        default=LIMIT,
        metavar="SECONDS",
        help=f"CPU, of a row [{LIMIT}]",
    )
    parser.add_argument("--most", type=whole_number, metavar="ROWS", help="new rows at the most")
    parser.add_argument("--results_dir", type=path_argument, default=RESULTS / "mindcv")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--report", action="store_true", help="run nothing; write the table")
    parser.add_argument("--check", action="store_true", help="with --report: change nothing")
    arguments = parser.parse_args(argv)
    if arguments.check and not arguments.report:
        raise UserError("--check is for the report: give --report, too")
    return arguments


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Do what is missing, or report what is stored.

    Args:
        argv: Arguments without the program's name; None for the process's own.

    Returns:
        Exit code: 0 done, 1 out of date (``--check``), 2 wrong input.
    """
    arguments = _arguments(argv)
    folder = arguments.results_dir
    if arguments.row:
        net, method = arguments.row
        run_here(folder, net, method, arguments.limit)
        return 0
    if arguments.report:
        from benchmarks.matrix.page import report

        stale = report(ROOT, folder, check=arguments.check)
        if stale:
            state = "out of date" if arguments.check else "written"
            print(f"{stale.relative_to(ROOT)}: {state}")
        return 1 if stale and arguments.check else 0
    nets = _wanted("--nets", arguments.nets, NETS)
    methods = _wanted("--methods", arguments.methods, METHODS)
    missing = [pair for pair in order(nets, methods) if not path_of(folder, *pair).is_file()]
    for net, method in missing[: arguments.most]:
        print(f"{net}, {method}: ", end="", flush=True)
        print(run_row(folder, net, method, Path(__file__).resolve(), arguments.limit), flush=True)
    return 0


if __name__ == "__main__":
    run_program(main)
