"""Entry point of ``python -m mindspore_thor.tune_split``."""

from __future__ import annotations

import os
import sys

from mindspore_thor.command_line import one_line_errors


@one_line_errors  # of the imports
def _main() -> int:
    from mindspore_thor.tune_split.command import main

    return main()


if __name__ == "__main__":
    os.environ.setdefault("GLOG_v", "3")
    sys.exit(_main())
