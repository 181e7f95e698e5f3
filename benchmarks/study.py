"""Run a study: every method tuned with the same small budget, then trained with several seeds.

    python benchmarks/study.py benchmarks/studies/fashion_mnist.yaml --data_path D
        [--output_dir O] [--only sgd,thor] [--seeds 1] [--missing] [--publish] [--left]
        [--defaults] [--step_time ROUNDS]
    python benchmarks/study.py benchmarks/studies/protocol_*.yaml
        --data_path mnist=D1 --data_path cifar10=D2 ...

Give the same command again after an interruption: finished runs are not repeated, a run that was
cut continues from its checkpoint. Several processes may share an output folder as long as each has
methods of its own (``--only``). ``--missing`` continues where the stored logs end, on another
machine for instance: it takes their choices of candidates, and does the runs that they do not have
with the study's present settings. ``--publish`` stores the finished runs' logs in
``benchmarks/results/``; ``--left`` only says what is left, and how long it will take;
``--defaults`` stops after the first trial of every method, all that the protocol's tables without
tuning need; ``--step_time`` measures the methods' step times, each interleaved with the baseline's,
instead of training. ``python benchmarks/report.py`` makes tables and plots of the stored logs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import benchmarks.needs  # noqa: F401  (first, before what it asks for)

# isort: split
from benchmarks.harness.left import report, total, what_is_left
from benchmarks.harness.runs import Interrupted, LimitReached, Runner
from benchmarks.harness.spec import RESULTS, Study, load_study
from benchmarks.harness.store import is_stored, publish, publish_choice, stored_choice
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
    parser.add_argument("studies", type=Path, nargs="+", metavar="STUDY.yaml")
    parser.add_argument(
        "--output_dir",
        type=Path,
        help="run folders; of several studies below it [runs/studies/NAME]",
    )
    parser.add_argument(
        "--data_path",
        action="append",
        default=[],
        metavar="[DATA=]FOLDER",
        help="folder of the data set, or of the named one [what the study says]",
    )
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
    parser.add_argument(
        "--defaults", action="store_true", help="of a protocol: only each method's first trial"
    )
    parser.add_argument("--publish", action="store_true", help="store the finished runs' logs")
    parser.add_argument(
        "--results_dir", type=Path, help="where; several studies below it [benchmarks/results/NAME]"
    )
    parser.add_argument("--left", action="store_true", help="only say what is left, and how long")
    parser.add_argument(
        "--step_time",
        type=whole_number,
        metavar="ROUNDS",
        help="measure step times instead of training",
    )
    return parser.parse_args(argv)


@dataclass(frozen=True)
class _Job:
    """A study with the methods and the folders of this call."""

    study: Study
    names: list[str]
    output: Path
    results: Path
    data_path: str | None


def _jobs(arguments: argparse.Namespace) -> list[_Job]:
    studies = [load_study(path) for path in arguments.studies]
    several = len(studies) > 1
    sets = [study.common["data"]["name"] for study in studies]
    paths = {}
    for text in arguments.data_path:
        name, found, folder = text.partition("=")
        if found and name in sets:
            paths[name] = folder
        elif len(set(sets)) > 1:
            raise UserError(
                f"--data_path {text!r}: these studies have several data sets; give NAME=FOLDER for "
                f"each of {', '.join(dict.fromkeys(sets))} that needs one"
            )
        else:
            paths[sets[0]] = text
    jobs = []
    for study, data in zip(studies, sets):
        if arguments.defaults and not study.baselines:
            raise UserError(f"--defaults: {study.name} is no workload of a protocol; leave it away")
        output = arguments.output_dir or Path("runs") / "studies"
        results = arguments.results_dir or RESULTS
        below = Path(study.name)
        jobs.append(
            _Job(
                study,
                _chosen_methods(study, arguments.only),
                output / below if several or arguments.output_dir is None else output,
                results / below if several or arguments.results_dir is None else results,
                paths.get(data),
            )
        )
    return jobs


def _say_left(jobs: Sequence[_Job], arguments: argparse.Namespace) -> None:
    parts = []
    for job in jobs:
        left = what_is_left(
            job.study,
            job.names,
            job.output,
            job.results,
            arguments.seeds,
            arguments.missing,
            arguments.defaults,
        )
        for line in report(job.study, left):
            print(line)
        parts += list(left.values())
    print(total(parts), flush=True)


def _choose(runner: Runner, job: _Job, name: str, arguments: argparse.Namespace) -> int:
    """Return a method's candidate: the stored choice, or that of its tuning runs, done here."""
    chosen = None
    if arguments.missing:
        chosen = stored_choice(job.study, name, job.results, defaults=arguments.defaults)
    if chosen is not None:
        return chosen
    chosen = runner.tune(name, defaults=arguments.defaults)
    if arguments.publish:
        publish_choice(job.study, name, job.output, job.results)
    return chosen


def _run_all(job: _Job, arguments: argparse.Namespace, most: float | None) -> float:
    """Do one study's runs; return how many more may be done."""
    study, names, output, results = job.study, job.names, job.output, job.results
    runner = Runner(study, output, job.data_path, most)
    with runner.exclusive(names):
        runner.check_recipes(names)
        if study.baselines:
            # The trials are what scores are made of: all of them come before the first final run.
            for name in names:
                _choose(runner, job, name, arguments)
        if arguments.defaults:
            return runner.left
        # One seed of every method comes before the second seed of any.
        for seed in study.seeds[: arguments.seeds]:
            for name in names:
                candidate = _choose(runner, job, name, arguments)
                if arguments.missing and is_stored(study, name, candidate, seed, results):
                    continue
                runner.run(name, candidate, f"seed-{seed}", seed, tuning=False)
                if arguments.publish:
                    publish(study, name, seed, output, results)
    return runner.left


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
        jobs = _jobs(arguments)
        if arguments.left:
            _say_left(jobs, arguments)
            return 0
        most: float | None = arguments.max_runs
        for job in jobs:
            if arguments.step_time is not None:
                from benchmarks.harness.steps import measure

                measure(job.study, job.names, job.results, job.data_path, arguments.step_time)
            else:
                most = _run_all(job, arguments, most)
        if arguments.step_time is None:
            print("all runs are done", flush=True)
    except Interrupted as stop:
        print("stopped by a signal; give the same command again to continue", flush=True)
        return stop.exit_code
    except LimitReached:
        print(f"{arguments.max_runs} runs done, more are left", flush=True)
    return 0


if __name__ == "__main__":
    run_program(main)
