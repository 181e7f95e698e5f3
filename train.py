"""Train a model by a recipe: ``python train.py --config_path models/resnet/....yaml``."""

from __future__ import annotations

import signal
from collections.abc import Sequence

if __name__ == "__main__" and hasattr(signal, "pthread_sigmask"):
    # Before the other imports, so that Ctrl-C leaves no traceback of one; run_program takes over.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))

from mindspore_thor.command_line import one_line_errors
from mindspore_thor.program import run_program


@one_line_errors  # of the imports; train_main reports its own
def main(argv: Sequence[str] | None = None) -> int:
    """Train; return the exit code.

    Args:
        argv: Arguments without the program's name; None for the process's own.
    """
    import models
    from mindspore_thor.run.commands import train_main

    return train_main(argv, models)


if __name__ == "__main__":
    # What is printed stands in the run folder as well: a run goes on without its reader.
    run_program(main, holds_signals=True, result_is_printed=False)
