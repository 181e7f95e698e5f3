"""State memory of every method on ResNet-20 (CIFAR-10) and ResNet-50 (ImageNet), as a table.

    python benchmarks/memory.py [--models resnet20,resnet50] [--methods sgd,thor,kfac_eigen]

Nothing is run: the bytes are those of the parameters that the optimizer holds besides the
network's, momentum included. What a step needs in passing (activations, patches) is not counted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import benchmarks.needs  # noqa: F401  (first, before what it asks for)

# isort: split
from mindspore import Parameter, nn

from benchmarks.step_time import METHODS, MODELS, make_optimizer
from mindspore_thor.command_line import Parser, one_line_errors
from mindspore_thor.program import run_program

MIB = 2**20


# The run that the state belongs to: FNGD keeps one coefficient per layer and training image.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet20": ("CIFAR-10", {"steps_per_epoch": 390, "batch_size": 128}),
    "resnet50": ("ImageNet", {"steps_per_epoch": 10009, "batch_size": 128}),
}


def size_of(parameter: Parameter) -> int:
    """Bytes of a parameter's value."""
    return int(parameter.size) * int(parameter.itemsize)


def state_bytes(net: nn.Cell, optimizer: nn.Optimizer) -> int:
    """Bytes of the parameters that an optimizer adds to those of its network."""
    own = {id(parameter) for parameter in net.get_parameters()}
    # Probes have no value in any graph: they take no memory.
    own |= {id(parameter) for parameter in getattr(optimizer, "scratch", tuple)()}
    return sum(size_of(p) for p in optimizer.get_parameters() if id(p) not in own)


def measure(model: str, name: str) -> tuple[int, int]:
    """Bytes of the weights, and of the state that a method adds.

    Args:
        model: a key of :data:`RUNS`.
        name: a method of the step-time benchmark, whose settings are used.

    Raises:
        UserError: for an unknown model or method.
    """
    net, optimizer = make_optimizer(name, model, **RUNS.get(model, ("", {}))[1])
    weights = sum(size_of(p) for p in net.trainable_params())
    return weights, state_bytes(net, optimizer)


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Build and print the table; returns the exit code."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(RUNS))
    parser.add_argument("--methods", default=",".join(METHODS))
    args = parser.parse_args(argv)
    names = args.models.split(",")
    rows = {name: [measure(model, name) for model in names] for name in args.methods.split(",")}
    titles = [f"{MODELS[model].title}, {RUNS[model][0]}" for model in names]
    weights = [f"{cell[0] / MIB:.1f}" for cell in next(iter(rows.values()))]
    print("Optimizer state in MiB; in brackets as a multiple of the weights")
    print(f"(weights: {', '.join(f'{t} {w}' for t, w in zip(titles, weights))})\n")
    print(f"| method | {' | '.join(titles)} |\n|---{'|---' * len(names)}|")
    for name, cells in rows.items():
        shown = [f"{state / MIB:.1f} ({state / own:.1f})" for own, state in cells]
        print(f"| {name} | {' | '.join(shown)} |")
    return 0


if __name__ == "__main__":
    run_program(main, holds_signals=True)
