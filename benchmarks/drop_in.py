"""Is it a drop-in? A script for nn.Momentum with its tuned rate, changed by one line.

    python benchmarks/drop_in.py --data_path D [--nets NET,...] [--optimizers NAME,...]
        [--seeds N] [--results_dir R] [--compile_cache FOLDER]
    python benchmarks/drop_in.py --report [--check]

The script is ``benchmarks/dropin/script.py``, on a part of CIFAR-10. For every net Momentum's rate
is chosen first, with held-out training images; THOR and KFAC take it over, with
``grafting="sgd"``. ``thor_own`` and ``kfac_own`` are those without grafting, at rates chosen for
them in the same way. Runs that are stored are not repeated: give the same command again after an
interruption. Each pair of net and optimizer has a process of its own. ``--report`` writes the
table in ``docs/results.md`` and the picture from what is stored; ``--check`` only says whether the
table is up to date.
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
from benchmarks.dropin.runs import SEEDS, Place, run_pair
from benchmarks.dropin.script import NETS, OPTIMIZERS
from benchmarks.harness.process import in_own_process
from benchmarks.harness.spec import RESULTS, ROOT
from mindspore_thor.command_line import Parser, one_line_errors, path_argument, whole_number
from mindspore_thor.data.files import data_folder
from mindspore_thor.errors import UserError, quoted
from mindspore_thor.program import run_program

GRAFTED = ("momentum", "thor", "kfac")
OWN_RATE_NETS = ("resnet20", "vgg11")
"""The nets whose runs with own rates are done by default."""


def _wanted(option: str, text: str, known: Iterable[str]) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in known:
            raise UserError(f"{option}: unknown {quoted(name)}; use some of {','.join(known)}")
    return names


def pairs(nets: str | None, optimizers: str | None) -> list[tuple[str, str]]:
    """Nets and optimizers in the order of their runs.

    Args:
        nets: What ``--nets`` says, or None.
        optimizers: What ``--optimizers`` says, or None: then own rates are for two nets alone.

    Raises:
        UserError: For names that there are not.
    """
    chosen = list(NETS) if nets is None else _wanted("--nets", nets, NETS)
    if optimizers is not None:
        names = _wanted("--optimizers", optimizers, OPTIMIZERS)
        return [(net, name) for net in chosen for name in names]
    return [
        (net, name) for net in chosen for name in (OPTIMIZERS if net in OWN_RATE_NETS else GRAFTED)
    ]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", type=path_argument, help="folder of CIFAR-10")
    parser.add_argument("--nets", metavar="NET,...", help=f"[{','.join(NETS)}]")
    parser.add_argument("--optimizers", metavar="NAME,...", help=f"of {','.join(OPTIMIZERS)}")
    parser.add_argument("--seeds", type=whole_number, metavar="N", help="only the first N seeds")
    parser.add_argument("--results_dir", type=path_argument, default=RESULTS / "drop_in")
    parser.add_argument("--compile_cache", type=path_argument, help="where graphs are kept")
    parser.add_argument("--report", action="store_true", help="train nothing; table and picture")
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
    wanted = pairs(arguments.nets, arguments.optimizers)
    if arguments.report:
        from benchmarks.dropin.page import report

        stale = report(ROOT, arguments.results_dir, check=arguments.check)
        if stale:
            state = "out of date" if arguments.check else "written"
            print(f"{stale.relative_to(ROOT)}: {state}")
        return 1 if stale and arguments.check else 0
    data_folder("cifar10", arguments.data_path)
    for net, optimizer in wanted:
        place = Place(arguments.results_dir, net, optimizer)
        keeps = True if arguments.compile_cache is None else str(arguments.compile_cache)
        seeds = SEEDS[: arguments.seeds]
        what = f"{net} with {optimizer}"
        in_own_process(what, "--nets", run_pair, place, arguments.data_path, seeds, keeps)
    return 0


if __name__ == "__main__":
    run_program(main)
