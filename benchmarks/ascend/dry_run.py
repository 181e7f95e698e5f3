"""Compiles training graphs for Ascend without a device and reports their kernels.

    python -m benchmarks.ascend.dry_run [--levels O0,O1] [--ranks 1,8] [resnet20:thor ...]

Without cases: everything in :func:`benchmarks.ascend.graphs.required`. A pass means that
MindSpore's Ascend back end takes the graph in dry-run; see :mod:`benchmarks.ascend.stand_in` for
what it does not mean. The last column divides a graph's kernels (acl, aclnn and fused) by those of
SGD's step on the same model, at the same level and number of ranks, where that step is among the
cases (``resnet20:sgd``).
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import benchmarks.needs  # noqa: F401  (first, before what it asks for)

# isort: split
from benchmarks.ascend import stand_in
from benchmarks.ascend.graphs import BASELINE, MARK, Case, Setting, parse_cases, required
from mindspore_thor.command_line import Parser, one_line_errors, whole_numbers
from mindspore_thor.errors import UserError
from mindspore_thor.program import run_program

_KERNEL = re.compile(r"kernel opname:\s*(\S+?), kernel type:\s*(\w+?)(?:_kernel)?\s*$")
# An operator that backs off to the host is named by another line, and by no kernel type.
_BACKED_OFF = re.compile(r"Try to use backoff CPU kernel, node:\s*(?:\S*/)?(\w+?)-op\d+")

logger = logging.getLogger(__name__)

HOST = ("cpu", "host", "aicpu")
"""Kernel types that do not run on the device's own units."""

OWN = ("acl", "opapi", "akg")
"""Those that do: acl, aclnn, and fused by O1."""


@dataclass
class Compiled:
    """What became of one graph.

    Attributes:
        case: which graph.
        kernels: (operator, kernel type) -> how many.
        seconds: compile time.
        error: why it did not compile; empty where it did; None where the process ended before.
    """

    case: Case
    kernels: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: float = 0.0
    error: str | None = None

    def of_type(self, kind: str) -> int:
        """How many kernels of a type there are."""
        return sum(count for (_, found), count in self.kernels.items() if found.lower() == kind)

    def on_device(self) -> int:
        """How many kernels run on the device's own units."""
        return sum(self.of_type(kind) for kind in OWN)

    def operator(self, name: str) -> int:
        """How many kernels of an operator there are."""
        return sum(count for (found, _), count in self.kernels.items() if found == name)

    def on_host(self) -> dict[str, int]:
        """Operators that back off to the host, and how many."""
        return {name: count for (name, kind), count in self.kernels.items() if kind.lower() in HOST}


def read_log(lines: Iterable[str]) -> list[Compiled]:
    """The graphs of a log that :mod:`benchmarks.ascend.compile` wrote."""
    found: list[Compiled] = []
    inside = False
    for line in lines:
        if line.startswith(MARK):
            content = json.loads(line[len(MARK) :])
            inside = content["at"] == "begin"
            if inside:
                found.append(Compiled(Case(*content["case"])))
            else:
                found[-1].seconds, found[-1].error = content["seconds"], content["error"]
                logger.info("%s: %.0f s", found[-1].case, found[-1].seconds)
        elif inside:
            kernel, backed_off = _KERNEL.search(line), _BACKED_OFF.search(line)
            if kernel:
                found[-1].kernels[kernel[1], kernel[2]] += 1
            elif backed_off:
                found[-1].kernels[backed_off[1], "cpu"] += 1
    return found


def dry_run(setting: Setting, cases: Sequence[Case], folder: Path, rank: int = 0) -> list[Compiled]:
    """Compile graphs in one child process.

    Args:
        setting: jit level and number of ranks.
        cases: the graphs.
        folder: of the stand-in libraries.
        rank: which rank the process plays.

    Returns:
        What became of every graph, in their order.

    Raises:
        UserError: where the process could not begin.
    """
    command = [sys.executable, "-m", "benchmarks.ascend.compile", "--level", setting.level]
    command += ["--ranks", str(setting.ranks), "--rank", str(rank), *map(str, cases)]
    variables = {
        **os.environ,
        **stand_in.environment(folder, setting.ranks, rank),
        "GLOG_v": "3",
        # The module that names the kernels.
        "MS_SUBMODULE_LOG_v": "{DEVICE:1}",
    }
    with subprocess.Popen(
        command,
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        cwd=folder,
    ) as process:
        assert process.stderr is not None
        tail: list[str] = []

        def kept() -> Iterable[str]:
            for line in process.stderr or ():
                # The log is long, and little of it is wanted.
                if not line.startswith("["):
                    tail[:] = [*tail[-19:], line]
                yield line

        found = read_log(kept())
    if not found:
        raise UserError(f"the dry-run could not begin: {''.join(tail).strip()[-800:]}")
    missing = cases[len(found) :]
    return found + [Compiled(case) for case in missing]


def ratio(graph: Compiled, found: Sequence[Compiled]) -> str:
    """A graph's kernels over those of SGD's step on its model; "-" where one is not there.

    A plain pass counts with the update that follows it, as SGD's step does.
    """
    model, method, kind = graph.case
    same = {other.case.kind: other for other in found if other.case[:2] == (model, method)}
    parts = [graph, *([same["update"]] if kind == "plain" and "update" in same else [])]
    for base in found:
        if base.case[:2] == (model, BASELINE) and not any(g.error != "" for g in [base, *parts]):
            kernels = sum(part.on_device() for part in parts)
            return f"{kernels / base.on_device():.2f}" if base.on_device() else "-"
    return "-"


def report(setting: Setting, found: Sequence[Compiled]) -> str:
    """A table of graphs and their kernels."""
    lines = [f"### {setting}", ""]
    lines.append(
        "| graph | acl | aclnn | fused (akg) | AllReduce | on the host | seconds | compiled "
        "| kernels / SGD |"
    )
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for graph in found:
        host = ", ".join(f"{name} x {n}" for name, n in sorted(graph.on_host().items())) or "none"
        done = "yes" if graph.error == "" else (graph.error or "process ended").splitlines()[0]
        cells = [graph.of_type(kind) for kind in OWN]
        cells.append(graph.operator("AllReduce"))
        counts = " | ".join(map(str, cells))
        lines.append(
            f"| {graph.case} | {counts} | {host} | {graph.seconds:.0f} | {done} "
            f"| {ratio(graph, found)} |"
        )
    return "\n".join(lines)


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Compile and print; returns the exit code, 1 where a graph failed or needs the host."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", help="model:method or model:method:kind")
    parser.add_argument("--levels", default="O0,O1")
    parser.add_argument("--ranks", type=whole_numbers, default="1,8")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cases = parse_cases(args.cases) if args.cases else required()
    folder = stand_in.build()
    good = True
    for level in args.levels.split(","):
        for ranks in args.ranks:
            setting = Setting(level, ranks)
            found = dry_run(setting, cases, folder)
            good = good and all(graph.error == "" and not graph.on_host() for graph in found)
            print(report(setting, found) + "\n", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    run_program(main)
