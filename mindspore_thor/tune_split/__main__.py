"""Entry point of ``python -m mindspore_thor.tune_split``."""

from __future__ import annotations

import os
import sys

from mindspore_thor.tune_split.command import main

if __name__ == "__main__":
    os.environ.setdefault("GLOG_v", "3")
    sys.exit(main())
