"""Evaluate a checkpoint: ``python eval.py --checkpoint_file_path runs/.../resnet20-10_39.ckpt``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import models
from mindspore_thor.train.commands import eval_main


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate; return the exit code.

    Args:
        argv: Arguments without the program's name; None for the process's own.
    """
    return eval_main(argv, models)


if __name__ == "__main__":
    sys.exit(main())
