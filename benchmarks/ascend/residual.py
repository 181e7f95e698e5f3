"""Damped inverses on a device against float64: their residuals and errors, as a table.

    python benchmarks/ascend/residual.py [--target Ascend]

Exit code 1 where an inverse is refused, or off by more than float32 explains.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import benchmarks.needs  # noqa: F401  (first, before what it asks for)

# isort: split
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindspore_thor.command_line import Parser, one_line_errors
from mindspore_thor.linalg.inverse import RESIDUAL_LIMIT, inverse_each
from mindspore_thor.program import run_program
from mindspore_thor.runtime import prepare_target

SIZES = (7, 64, 128, 576)
CONDITIONS = (1e1, 1e3, 1e4)
ERROR_LIMIT = 100.0
"""Largest accepted error, as a multiple of float32's precision times the condition number."""


class Inverse(nn.Cell):
    """The package's damped inverse as a graph."""

    def construct(self, matrices: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
        """Matrices [n, d, d] and shifts [n] -> inverses and whether each is sound."""
        return inverse_each(matrices, shifts)


def matrices(size: int, condition: float, count: int = 4) -> np.ndarray:
    """Symmetric positive definite float32 [count, size, size], the same in every run."""
    rng = np.random.default_rng(size)
    q = np.linalg.qr(rng.standard_normal((count, size, size)))[0]
    found = (q * np.geomspace(1.0, 1.0 / condition, size)) @ q.transpose(0, 2, 1)
    return (0.5 * (found + found.transpose(0, 2, 1))).astype(np.float32)


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Invert, compare and print; returns the exit code."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", default="Ascend", choices=("Ascend", "CPU"))
    args = parser.parse_args(argv)
    ms.set_context(mode=ms.GRAPH_MODE)
    prepare_target(args.target)
    good, invert = True, Inverse()
    print("| d | condition | sound | largest residual | error | |\n|---|---|---|---|---|---|")
    for size in SIZES:
        for condition in CONDITIONS:
            m = matrices(size, condition)
            got, ok = invert(Tensor(m), Tensor(np.zeros(len(m), np.float32)))
            x, exact = got.asnumpy().astype(np.float64), np.linalg.inv(m.astype(np.float64))
            residual = np.abs(m @ x - np.eye(size)).max()
            error = np.abs(x - exact).max() / np.abs(exact).max()
            limit = ERROR_LIMIT * float(np.finfo(np.float32).eps) * condition
            fine = bool(ok.asnumpy().all()) and error < limit
            good = good and fine
            print(
                f"| {size} | {condition:g} | {int(ok.asnumpy().sum())} of {len(m)} | "
                f"{residual:.1e} | {error:.1e} | {'' if fine else 'FAILED'} |"
            )
    print(f"\nA residual is refused above {RESIDUAL_LIMIT:g} before the result is made symmetric.")
    return 0 if good else 1


if __name__ == "__main__":
    run_program(main, holds_signals=True)
