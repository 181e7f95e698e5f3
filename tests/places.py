"""Where things lie, for tests in any folder."""

from __future__ import annotations

import os
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent

IMPORTABLE = os.pathsep.join(
    map(str, [ROOT, TESTS, *sorted(p for p in TESTS.iterdir() if p.is_dir())])
)
"""For ``PYTHONPATH``: scripts of tests import the package, and from other tests."""
