"""Traffic and inverse time per step on many ranks, computed from shapes: docs/scaling.md.

    python benchmarks/scaling.py [--write] [--check]

``--write`` puts the tables into the page, ``--check`` fails (exit code 1) where the page does not
hold them. Nothing is compiled or run: the times follow from the assumptions that the page states.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import benchmarks.needs  # noqa: F401  (first, before what it asks for)

# isort: split
import yaml

from benchmarks.ascend.graphs import Graphs
from benchmarks.traffic import traffic
from mindspore_thor.command_line import Parser, one_line_errors
from mindspore_thor.linalg.newton_schulz import STEPS
from mindspore_thor.parallel.assignment import Share, assign
from mindspore_thor.program import run_program

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scaling.md"
RECIPE = Path(__file__).resolve().parent.parent / "models/resnet/resnet50_imagenet.yaml"
BEGIN, END = "<!-- begin: python benchmarks/scaling.py -->", "<!-- end -->"
MODEL, RANKS = "resnet50", (8, 128, 256)
METHODS = {"sgd": "SGD", "thor": "THOR", "fngd": "FNGD", "lngd": "LNGD"}


@dataclass(frozen=True)
class Machine:
    """What is assumed of the hardware; nothing of it was measured.

    Attributes:
        bandwidth: bytes per second that a rank sends and receives at once.
        latency: seconds per hop of a ring.
        flops: float32 operations per second in batched products of 128 x 128 matrices.
    """

    bandwidth: float = 1e10
    latency: float = 1e-5
    flops: float = 1e13


def ring_seconds(message: int, ranks: int, machine: Machine) -> float:
    """A ring AllReduce: 2 (p - 1) hops, each with a p-th of the message."""
    hops = 2 * (ranks - 1)
    return hops * (message / ranks / machine.bandwidth + machine.latency)


def inverse_flops(sizes: Sequence[int], steps: int = STEPS) -> float:
    """Newton-Schulz and its check: two products a step and one more, 2 d^3 operations each."""
    return float(sum((2 * steps + 1) * 2 * size**3 for size in sizes))


def intervals() -> tuple[int, int]:
    """Factor and inverse interval of the published recipe with batch 256."""
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    options = recipe["methods"]["thor"]["optimizer"]
    return int(options["factor_interval"]), int(options["inverse_interval"])


def traffic_table() -> str:
    """Messages and bytes of every kind of step, the same for any number of ranks."""
    lines = ["| method | step | messages | MB |", "|---|---|---|---|"]
    for method, title in METHODS.items():
        for kind, found in traffic(Graphs.of(MODEL, method).step).items():
            lines.append(f"| {title} | {kind} | {len(found)} | {sum(found) / 1e6:.1f} |")
    return "\n".join(lines)


def step_table(machine: Machine) -> str:
    """THOR's traffic and inverse time by the number of ranks, single steps and on average."""
    step = Graphs.of(MODEL, "thor").step
    sent = traffic(step)
    every_factor, every_inverse = intervals()
    sizes = step.optimizer.refresher.assignment.sizes
    lines = [
        "| ranks | inverse_share | SGD's messages, ms | factor step adds, ms | inverse: products, "
        "ms | inverse: messages, ms | THOR adds on average, ms | of it inverses, ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    shares: tuple[Share, ...] = ("all", "one")
    for ranks in RANKS:

        def seconds(kind: str, ranks: int = ranks) -> float:
            return sum(ring_seconds(message, ranks, machine) for message in sent[kind])

        for share in shares:
            plan = assign(sizes, ranks, share)
            busiest = max(
                inverse_flops([sizes[i] for i in plan.of(rank)]) for rank in range(plan.workers)
            )
            products = busiest / machine.flops
            exchange = seconds("inverse") if plan.workers > 1 else 0.0
            factor = seconds("factor") - seconds("plain")
            inverse = (products + exchange) / every_inverse
            cells = (seconds("plain") + seconds("update"), factor, products, exchange)
            lines.append(
                f"| {ranks} | {share} | {' | '.join(f'{1e3 * cell:.2f}' for cell in cells)} | "
                f"{1e3 * (factor / every_factor + inverse):.4f} | {1e3 * inverse:.4f} |"
            )
    return "\n".join(lines)


def assumptions(machine: Machine) -> str:
    """What the figures rest on."""
    every_factor, every_inverse = intervals()
    return "\n".join(
        (
            f"- A rank sends and receives {machine.bandwidth / 1e9:g} GB/s; every AllReduce is a "
            f"ring over all ranks, 2 (p - 1) hops of {machine.latency * 1e6:g} us; no overlap.",
            f"- Inverses are Newton-Schulz: {STEPS} steps of two products and one check, 2 d^3 "
            f"float32 operations each, at {machine.flops / 1e12:g} TFLOP/s on the busiest rank.",
            "- None of these three figures was measured: they are orders of magnitude.",
            f"- Averages: factors every {every_factor} and inverses every {every_inverse} steps "
            f"(THOR in `models/resnet/{RECIPE.name}`); the trace rule, which skips some, is left "
            "out.",
            "- float32 everywhere; symmetric matrices travel as triangles; MB are 10^6 bytes that "
            "enter an AllReduce (a ring sends 2 (p - 1) / p times as many per rank).",
        )
    )


def tables(machine: Machine) -> str:
    """All that is generated of the page."""
    return (
        f"{BEGIN}\n\n## Assumptions\n\n{assumptions(machine)}\n\n"
        f"## What a step sends\n\n{traffic_table()}\n\n"
        f"## THOR by the number of ranks\n\n{step_table(machine)}\n\n{END}"
    )


def with_tables(page: str, generated: str) -> str:
    """The page with its generated part replaced."""
    start, end = page.index(BEGIN), page.index(END) + len(END)
    return page[:start] + generated + page[end:]


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Print, write or check the tables; returns the exit code."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    parser.add_argument("--check", action="store_true", help=f"compare with {PAGE.name}")
    args = parser.parse_args(argv)
    generated = tables(Machine())
    if not args.write and not args.check:
        print(generated)
        return 0
    page = PAGE.read_text(encoding="utf-8")
    wanted = with_tables(page, generated)
    if args.write:
        PAGE.write_text(wanted, encoding="utf-8")
    elif wanted != page:
        print(f"error: {PAGE} is stale: run python benchmarks/scaling.py --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_program(main, holds_signals=True)
