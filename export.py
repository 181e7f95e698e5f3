"""Export a checkpoint: ``python export.py --checkpoint_file_path runs/... --file_format ONNX``."""

from __future__ import annotations

import signal
from collections.abc import Sequence

if __name__ == "__main__" and hasattr(signal, "pthread_sigmask"):
    # Before the other imports, so that Ctrl-C leaves no traceback of one; run_program takes over.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))

from mindspore_thor.command_line import one_line_errors
from mindspore_thor.program import run_program


@one_line_errors  # of the imports; export_main reports its own
def main(argv: Sequence[str] | None = None) -> int:
    """Export; return the exit code.

    Args:
        argv: Arguments without the program's name; None for the process's own.
    """
    import models
    from mindspore_thor.run.export import export_main

    return export_main(argv, models)


if __name__ == "__main__":
    run_program(main, holds_signals=True)
