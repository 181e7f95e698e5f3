"""Entry point of ``python -m mindspore_thor.tune_split``."""

from __future__ import annotations

from mindspore_thor.command_line import one_line_errors
from mindspore_thor.program import run_program


@one_line_errors  # of the imports
def _main() -> int:
    from mindspore_thor.tune_split.command import main

    return main()


if __name__ == "__main__":
    run_program(_main, holds_signals=True)
