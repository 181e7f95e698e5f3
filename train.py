"""Train a model by a recipe: ``python train.py --config_path models/resnet/....yaml``."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from mindspore_thor.command_line import one_line_errors


@one_line_errors  # of the imports; train_main reports its own
def main(argv: Sequence[str] | None = None) -> int:
    """Train; return the exit code.

    Args:
        argv: Arguments without the program's name; None for the process's own.
    """
    import models
    from mindspore_thor.train.commands import train_main

    return train_main(argv, models)


if __name__ == "__main__":
    # MindSpore warns of its own deprecations at import: a screenful around our one line of error.
    os.environ.setdefault("GLOG_v", "3")
    # Held for mindspore_thor.train.signals, which says why; before the imports start any thread.
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    sys.exit(main())
