"""The final graphs that a script compiles, as text."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from places import IMPORTABLE


def compiled_graphs(script: str, folder: Path, *arguments: str) -> list[str]:
    """Run a Python script in a process of its own; its graphs in the order of compilation."""
    environment = {
        **os.environ,
        "MS_DEV_SAVE_GRAPHS": "1",
        "MS_DEV_SAVE_GRAPHS_PATH": str(folder),
        # Writing the graph after every pass would take longer than compiling it.
        "MS_DEV_DUMP_IR_PASSES": "validate",
        "PYTHONPATH": os.pathsep.join([IMPORTABLE, os.environ.get("PYTHONPATH", "")]),
    }
    cheaper = "import compiling; compiling.make_compiling_cheaper()"
    command = [sys.executable, "-c", f"{cheaper}\n{script}", *arguments]
    subprocess.run(command, check=True, env=environment, cwd=folder, timeout=600)
    found = sorted(folder.rglob("*_validate_*.ir"), key=lambda path: path.stem.rsplit("_", 1)[1])
    return [path.read_text() for path in found]


def operators(ir: str) -> Counter:
    """Operators of a compiled graph and its sub-graphs."""
    return Counter(re.findall(r" = (?:PrimFunc_)?(\w+)\(", ir))
