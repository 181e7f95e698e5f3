"""Train a model by a recipe: ``python train.py --config_path models/resnet/....yaml``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import models
from mindspore_thor.train.commands import train_main


def main(argv: Sequence[str] | None = None) -> int:
    """Train; return the exit code.

    Args:
        argv: Arguments without the program's name; None for the process's own.
    """
    return train_main(argv, models)


if __name__ == "__main__":
    sys.exit(main())
