"""Where a measurement comes from: the code's commit, versions and machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from typing import Any

import mindspore_thor
from benchmarks.harness.spec import ROOT


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def commit() -> str:
    """Return the short commit of the working tree, ``+changes`` behind it where files differ.

    Only files that decide what a run computes count; its recipe is stored with it.
    """
    name = _git("rev-parse", "--short=10", "HEAD") or "unknown"
    changed = _git("status", "--porcelain", "--", "mindspore_thor", "models/*.py", "train.py")
    return name + ("+changes" if changed else "")


def provenance() -> dict[str, Any]:
    """Return commit, versions and machine, as plain values."""
    versions = {name: metadata.version(name) for name in ("mindspore", "numpy")}
    return {
        "commit": commit(),
        "versions": {
            "mindspore_thor": mindspore_thor.__version__,
            **versions,
            "python": platform.python_version(),
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
