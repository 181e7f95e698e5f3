"""The collectives of a training step on many ranks, from graphs compiled without a device.

    python benchmarks/collectives.py --model resnet50 --method thor --ranks 8,256 --rank 0

Every kind of step is compiled as one rank of many and its AllReduces are read from the compiled
graph: how many there are, their bytes, and how many tensors the package has put into them. The
compiler's own fusion (``fusion``, 0: none) plays no part. MindSpore inserts no others later; that
Ascend's back end keeps them is tested in ``tests/benchmarks/test_ascend_dry_run.py``. Nothing is
run.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, NamedTuple

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import benchmarks.needs  # noqa: F401  (first, before what it asks for)

# isort: split
import mindspore as ms
from mindspore import nn

from benchmarks.ascend.graphs import Graphs, kinds_of
from mindspore_thor.command_line import Parser, one_line_errors, whole_numbers
from mindspore_thor.errors import UserError
from mindspore_thor.program import run_program

COLLECTIVES = ("AllReduce", "AllGather", "ReduceScatter", "Broadcast", "AlltoAll")
_CALL = re.compile(rf"= ({'|'.join(COLLECTIVES)})\(")
_TENSOR = re.compile(r"<Tensor\[(\w+)\], \(([\d, ]*)\)")
_FUSION = re.compile(r"fusion: I64\((-?\d+)\)")
_SAVING = {"MS_DEV_SAVE_GRAPHS": "1", "MS_DEV_DUMP_IR_PASSES": "validate"}
_BYTES = {"Float32": 4, "Float16": 2, "BFloat16": 2, "Int32": 4, "Int64": 8}


class Collective(NamedTuple):
    """One collective operator of a graph."""

    operator: str
    size: int
    fusion: int


def read_collectives(text: str) -> list[Collective]:
    """The collectives of a graph that MindSpore has written as text (``MS_DEV_SAVE_GRAPHS``)."""
    lines = text.splitlines()
    found = []
    for i, line in enumerate(lines):
        call = _CALL.search(line)
        if not call:
            continue
        # The types stand behind the call or on the next line: those of the inputs come first.
        tensor = _TENSOR.search(line) or _TENSOR.search(lines[i + 1])
        assert tensor, line
        size = _BYTES[tensor[1]]
        for part in tensor[2].split(","):
            size *= int(part) if part.strip() else 1
        fusion = _FUSION.search(line)
        found.append(Collective(call[1], size, int(fusion[1]) if fusion else 0))
    return found


@contextmanager
def as_rank(rank: int, ranks: int) -> Iterator[None]:
    """While this holds, cells are built and compiled as if this process were one of many."""
    ms.set_auto_parallel_context(parallel_mode="data_parallel", device_num=ranks, global_rank=rank)
    try:
        yield
    finally:
        ms.reset_auto_parallel_context()


def compiled_collectives(cell: nn.Cell, inputs: Sequence[object]) -> list[Collective]:
    """Compile a cell and read its collectives; nothing is run."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(_SAVING, MS_DEV_SAVE_GRAPHS_PATH=folder)
        try:
            cell.compile(*inputs)
        finally:
            for name in (*_SAVING, "MS_DEV_SAVE_GRAPHS_PATH"):
                del os.environ[name]
        paths = sorted(Path(folder).rglob("*_validate_*.ir"))
        if len(paths) != 1:
            raise UserError(
                f"MindSpore wrote {len(paths)} graphs instead of one: use MindSpore 2.10"
            )
        return read_collectives(paths[0].read_text(encoding="utf-8"))


def tensors_of(cell: nn.Cell) -> int:
    """How many tensors the package sends in a step's messages."""
    sums = [getattr(part, "sum", part) for part in (cell, *cell._cells.values())]
    return sum(len(m) for part in sums if hasattr(part, "all_reduce") for m in part.lengths)


Found = dict[str, tuple[list[Collective], int]]
"""Kind of step -> its collectives, and how many tensors are in them."""


def measure(make: Callable[[], Graphs], kinds: Sequence[str], ranks: int, rank: int) -> Found:
    """Compile every kind of step as one rank of many.

    Args:
        make: builds the graphs' cells, which ask for the number of ranks when they are made.
        kinds: what to compile, see :mod:`benchmarks.ascend.graphs`.
        ranks: how many there are.
        rank: which one to be.
    """
    found: Found = {}
    with as_rank(rank, ranks):
        graphs = make()
        for kind in kinds:
            cell, inputs = graphs.cell(kind)
            parts = [getattr(cell, "backward", None), getattr(cell, "guard", None)]
            if kind == "inverse":
                parts = [graphs.optimizer.refresher]
            collectives = compiled_collectives(cell, inputs)
            tensors = sum(tensors_of(part) for part in parts if part is not None)
            found[kind] = (collectives, tensors if collectives else 0)
    return found


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Compile and print; returns the exit code."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="resnet50", choices=("resnet20", "resnet50"))
    parser.add_argument("--method", default="thor", help="a method of benchmarks/step_time.py")
    parser.add_argument("--ranks", type=whole_numbers, default="8,256", help="numbers of ranks")
    parser.add_argument("--rank", type=int, default=0, help="the rank to compile as")
    args = parser.parse_args(argv)
    ms.set_context(mode=ms.GRAPH_MODE)
    if not 0 <= args.rank < min(args.ranks):
        raise UserError(f"--rank {args.rank}: give one from 0 to {min(args.ranks) - 1}")
    print(f"{args.model}, {args.method}, as rank {args.rank}; MB are 10^6 bytes\n")
    print("| ranks | step | collectives | tensors in them | fusion | MB each | MB |")
    print("|---|---|---|---|---|---|---|")
    make = functools.partial(Graphs.of, args.model, args.method)
    for ranks in args.ranks:
        steps = measure(make, kinds_of(args.method), ranks, args.rank)
        for kind, (found, tensors) in steps.items():
            names = {item.operator for item in found}
            each = ", ".join(f"{item.size / 1e6:.2f}" for item in found) or "-"
            total = sum(item.size for item in found) / 1e6
            what = f"{len(found)} {'/'.join(sorted(names))}".strip()
            fusion = ", ".join(sorted({str(item.fusion) for item in found})) or "-"
            print(f"| {ranks} | {kind} | {what} | {tensors} | {fusion} | {each} | {total:.2f} |")
    return 0


if __name__ == "__main__":
    run_program(main)
