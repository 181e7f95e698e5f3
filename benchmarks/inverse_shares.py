"""What every choice of ``inverse_share`` costs for a net, as a Markdown table.

    python benchmarks/inverse_shares.py MODEL [--ranks 8,128,256] [--split_dim 128]

Only the shapes of the net's layers enter: nothing is compiled or run, and no device is needed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import benchmarks.needs  # noqa: F401  (first, before what it asks for)

# isort: split
from mindspore import nn

from mindspore_thor.command_line import Parser, one_line_errors, whole_number, whole_numbers
from mindspore_thor.methods.thor import THOR
from mindspore_thor.parallel.assignment import Choice, Share, choices
from mindspore_thor.program import run_program
from models import create_model


def matrix_sizes(net: nn.Cell, split_dim: int | None) -> list[int]:
    """Size d of every matrix that THOR (None: KFAC without biases) inverts in a net."""
    optimizer = THOR(net, 0.1, split_dim=split_dim)
    return list(optimizer.refresher.assignment.sizes)


def table(rows: Sequence[Choice]) -> str:
    """The choices as Markdown, in MB (10^6 bytes) and 10^9 d^3."""
    lines = [
        "| ranks | inverse_share | largest share of a rank, 10^9 d^3 | speed-up | "
        "its matrices, MB | sent per refresh and rank, MB |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.ranks} | {row.share} | {row.largest / 1e9:.2f} | {row.speedup:.1f} | "
            f"{row.workspace / 1e6:.1f} | {row.traffic / 1e6:.1f} |"
        )
    return "\n".join(lines)


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables for block factors and for whole ones."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a model's name, for example resnet50")
    parser.add_argument("--ranks", type=whole_numbers, default="8,128,256", help="ranks")
    parser.add_argument("--split_dim", type=whole_number, default=128, help="THOR's block size")
    given = parser.parse_args(arguments)
    shares: tuple[Share, ...] = ("all", 8, "one")
    for split in (given.split_dim, None):
        sizes = matrix_sizes(create_model(given.model), split)
        title = f"blocks of at most {split}" if split else "whole factors"
        print(f"\n{given.model}, {title}: {len(sizes)} matrices\n")
        print(table(choices(sizes, given.ranks, shares)))
    return 0


if __name__ == "__main__":
    run_program(main, holds_signals=True)
