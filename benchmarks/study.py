"""Run a study: every method tuned with the same small budget, then trained with several seeds.

    python benchmarks/study.py benchmarks/studies/fashion_mnist.yaml --data_path D
        [--output_dir O] [--only sgd,thor] [--seeds 1] [--missing] [--publish]
        [--step_time ROUNDS]

Give the same command again after an interruption: finished runs are not repeated, a run that was
cut continues from its checkpoint. Several processes may share an output folder as long as each has
methods of its own (``--only``). ``--missing`` continues where the stored logs end, on another
machine for instance: it takes their choices of candidates, and does the runs that they do not have
with the study's present settings. ``--publish`` stores the finished runs' logs in
``benchmarks/results/``; ``--step_time`` measures the methods' step times there, each interleaved
with SGD's, instead of training. ``python benchmarks/report.py`` makes tables and plots of both.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import benchmarks.needs  # noqa: F401  (first, before what it asks for)

# isort: split
from benchmarks.harness.runs import Interrupted, LimitReached, Runner
from benchmarks.harness.spec import RESULTS, Study, load_study
from benchmarks.harness.store import is_stored, publish, stored_choice
from mindspore_thor.command_line import Parser, one_line_errors, whole_number
from mindspore_thor.errors import UserError
from mindspore_thor.program import run_program


def _chosen_methods(study: Study, only: str | None) -> list[str]:
    if only is None:
        return list(study.methods)
    names = only.split(",")
    for name in names:
        if name not in study.methods:
            raise UserError(
                f"--only: {study.name} has no method {name!r}; it has {', '.join(study.methods)}"
            )
    return names


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, metavar="STUDY.yaml")
    parser.add_argument("--output_dir", type=Path, help="run folders [runs/studies/NAME]")
    parser.add_argument("--data_path", help="folder of the data set [what the study says]")
    parser.add_argument("--only", metavar="METHOD,...", help="these methods, in this order [all]")
    parser.add_argument(
        "--seeds", type=whole_number, metavar="N", help="only the study's first N seeds"
    )
    parser.add_argument(
        "--max_runs", type=whole_number, metavar="N", help="stop after N runs [never]"
    )
    parser.add_argument(
        "--missing", action="store_true", help="only what the stored logs do not have"
    )
    parser.add_argument("--publish", action="store_true", help="store the finished runs' logs")
    parser.add_argument("--results_dir", type=Path, help="where [benchmarks/results/NAME]")
    parser.add_argument(
        "--step_time",
        type=whole_number,
        metavar="ROUNDS",
        help="measure step times instead of training",
    )
    return parser.parse_args(argv)


def _run_all(study: Study, names: list[str], arguments: argparse.Namespace) -> None:
    output = arguments.output_dir or Path("runs") / "studies" / study.name
    runner = Runner(study, output, arguments.data_path, arguments.max_runs)
    results = arguments.results_dir or RESULTS / study.name
    with runner.exclusive(names):
        runner.check_recipes(names)
        # One seed of every method comes before the second seed of any.
        for seed in study.seeds[: arguments.seeds]:
            for name in names:
                chosen = stored_choice(study, name, results) if arguments.missing else None
                candidate = runner.tune(name) if chosen is None else chosen
                if arguments.missing and is_stored(study, name, candidate, seed, results):
                    continue
                runner.run(name, candidate, f"seed-{seed}", seed, tuning=False)
                if arguments.publish:
                    publish(study, name, seed, output, results)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing of a study.

    Args:
        argv: Arguments without the program's name; None for the process's own.

    Returns:
        Exit code: 0 done, 2 wrong input, 130 or 143 stopped by a signal.
    """
    try:
        arguments = _arguments(argv)
        study = load_study(arguments.study)
        names = _chosen_methods(study, arguments.only)
        if arguments.step_time is not None:
            from benchmarks.harness.steps import measure

            results = arguments.results_dir or RESULTS / study.name
            measure(study, names, results, arguments.data_path, arguments.step_time)
        else:
            _run_all(study, names, arguments)
            print("all runs are done", flush=True)
    except Interrupted as stop:
        print("stopped by a signal; give the same command again to continue", flush=True)
        return stop.exit_code
    except LimitReached:
        print(f"{arguments.max_runs} runs done, more are left", flush=True)
    return 0


if __name__ == "__main__":
    run_program(main)
