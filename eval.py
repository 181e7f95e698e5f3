"""Evaluate a checkpoint: ``python eval.py --checkpoint_file_path runs/.../resnet20-10_39.ckpt``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from mindspore_thor.command_line import one_line_errors


@one_line_errors  # of the imports; eval_main reports its own
def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate; return the exit code.

    Args:
        argv: Arguments without the program's name; None for the process's own.
    """
    import models
    from mindspore_thor.train.commands import eval_main

    return eval_main(argv, models)


if __name__ == "__main__":
    # MindSpore warns of its own deprecations at import: a screenful around our one line of error.
    os.environ.setdefault("GLOG_v", "3")
    sys.exit(main())
