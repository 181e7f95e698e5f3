"""Compiles training graphs in this process, for Ascend or for CPU, and runs them if told to.

    python benchmarks/ascend/compile.py [--run] [--level O1] [--ranks 8] resnet20:thor ...

Before and behind every graph a line beginning with ``[graph]`` goes to the standard error stream,
among MindSpore's log. :mod:`benchmarks.ascend.dry_run` starts this with the stand-in libraries.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import benchmarks.needs  # noqa: F401  (first, before what it asks for)

# isort: split
import mindspore as ms
from mindspore.communication import init

from benchmarks.ascend.graphs import MARK, Graphs, parse_cases
from benchmarks.step_time import wait
from mindspore_thor.command_line import Parser, one_line_errors, whole_number
from mindspore_thor.program import run_program
from mindspore_thor.runtime import prepare_target


def mark(**content: object) -> None:
    """A line of the log that MindSpore does not write."""
    sys.stdout.flush()
    print(MARK, json.dumps(content), file=sys.stderr, flush=True)


def set_up(target: str, level: str, ranks: int, rank: int) -> None:
    """Graph mode for a device and a jit level, as one rank of several."""
    ms.set_context(mode=ms.GRAPH_MODE)
    prepare_target(target)
    ms.set_context(jit_config={"jit_level": level})
    if ranks == 1:
        return
    if target == "Ascend":
        init()
        ms.set_auto_parallel_context(parallel_mode="data_parallel")
    else:
        # Nothing is initialised: the graph holds its collectives, but could not be run.
        ms.set_auto_parallel_context(
            parallel_mode="data_parallel", device_num=ranks, global_rank=rank
        )


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Compile what is asked for; returns the exit code, 1 where a graph failed."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="+", help="model:method or model:method:kind")
    parser.add_argument("--run", action="store_true", help="also run every graph once")
    parser.add_argument("--target", default="Ascend", choices=("Ascend", "CPU"))
    parser.add_argument("--level", default="O0", choices=("O0", "O1"))
    parser.add_argument("--ranks", type=whole_number, default=1)
    parser.add_argument("--rank", type=int, default=0)
    args = parser.parse_args(argv)
    failed = 0
    cases = parse_cases(args.cases)
    set_up(args.target, args.level, args.ranks, args.rank)
    graphs: dict[tuple[str, str], Graphs] = {}
    for case in cases:
        key = (case.model, case.method)
        if key not in graphs:
            graphs = {key: Graphs.of(*key)}
        cell, inputs = graphs[key].cell(case.kind)
        mark(case=case, at="begin")
        start, error = time.perf_counter(), ""
        try:
            if args.run:
                wait(cell.compile_and_run(*inputs))
            else:
                cell.compile(*inputs)
        except Exception as reason:
            error, failed = str(reason) or repr(reason), 1
        mark(case=case, at="end", seconds=time.perf_counter() - start, error=error)
    return failed


if __name__ == "__main__":
    run_program(main)
