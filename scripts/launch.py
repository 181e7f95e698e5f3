#!/usr/bin/env python3
"""Run a script in one process per device; see mindspore_thor/launch/command.py.

Unlike ``python -m`` this looks for no module in the current folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindspore_thor.launch.command import program

if __name__ == "__main__":
    program()
