"""The papers' own pictures, on runs of this package (ResNet-20 on the bundled sample, CPU-sized).

    python benchmarks/paper_figures.py [NAME ...] [--epochs N] [--draw_only]

NAME is one of thor_factors (norms and trace changes per layer), thor_split (blocks against whole
factors), fngd_weights (the samples' weights over the epochs) and lngd_fisher (the exact block and
Phi (x) Psi); all of them by default. What a run recorded is stored in
``benchmarks/results/paper_figures/NAME.json`` and drawn to ``docs/figures/NAME.png``;
``--draw_only`` draws what is stored.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import benchmarks.needs  # noqa: F401  (first, before what it asks for)

# isort: split
from benchmarks.harness.provenance import provenance
from benchmarks.harness.spec import RESULTS, ROOT
from benchmarks.papers.drawing import draw
from benchmarks.papers.experiments import EXPERIMENTS
from mindspore_thor.command_line import Parser, one_line_errors, whole_number
from mindspore_thor.errors import UserError
from mindspore_thor.program import run_program


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument(
        "--epochs", type=whole_number, metavar="N", help="length of the runs [their own]"
    )
    parser.add_argument("--draw_only", action="store_true", help="train nothing")
    parser.add_argument("--results_dir", type=Path, default=RESULTS / "paper_figures")
    parser.add_argument("--figures_dir", type=Path, default=ROOT / "docs" / "figures")
    arguments = parser.parse_args(argv)
    for name in arguments.names:
        if name not in EXPERIMENTS:
            raise UserError(f"unknown picture {name!r}: use some of {', '.join(EXPERIMENTS)}")
    if arguments.epochs is not None and arguments.epochs < 2:
        raise UserError(f"--epochs is {arguments.epochs}; give a whole number of at least 2")
    return arguments


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Record and draw.

    Args:
        argv: Arguments without the program's name; None for the process's own.

    Returns:
        Exit code: 0 done, 2 wrong input.
    """
    arguments = _arguments(argv)
    for name in arguments.names or EXPERIMENTS:
        path = arguments.results_dir / f"{name}.json"
        if not arguments.draw_only:
            run, epochs = EXPERIMENTS[name]
            data = {**provenance(), **run(arguments.epochs or epochs)}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(data) + "\n", encoding="utf-8")
        elif not path.is_file():
            raise UserError(f"{path}: no such file; run without --draw_only first")
        figure = arguments.figures_dir / f"{name}.png"
        draw(name, json.loads(path.read_text(encoding="utf-8")), figure)
        print(f"{name}: {figure}", flush=True)
    return 0


if __name__ == "__main__":
    run_program(main, holds_signals=True)
