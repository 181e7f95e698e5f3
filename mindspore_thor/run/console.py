"""The commands that an installation brings: ``mindspore-thor-train``, ``-eval`` and ``-export``.

They do what ``train.py``, ``eval.py`` and ``export.py`` of the repository do, with the same models.
Nothing is imported here that imports MindSpore: signals are held first.
"""

from __future__ import annotations

import importlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import mindspore_thor
from mindspore_thor.command_line import one_line_errors
from mindspore_thor.errors import UserError
from mindspore_thor.program import run_program

if TYPE_CHECKING:
    from mindspore_thor.run.config import ModelCatalogue


def shipped_models() -> ModelCatalogue:
    """Return the package of models: ``mindspore_thor.models``, the repository's folder ``models``.

    Raises:
        UserError: If neither is there.
    """
    place = Path(mindspore_thor.__file__).parent
    for name, folder in (("mindspore_thor.models", place), ("models", place.parent)):
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            continue
        # Another package of this name may come first; one that is installed for editing lies in
        # the repository under its other name.
        if Path(str(found.__file__)).parent in (folder / "models", place.parent / "models"):
            return cast("ModelCatalogue", found)
    raise UserError(
        "the models of mindspore_thor are not found; install the package (pip install .), or run "
        "the command in the repository's folder"
    )


def train() -> NoReturn:
    """Run ``mindspore-thor-train``."""
    # What is printed stands in the run folder as well: a run goes on without its reader.
    _run("mindspore_thor.run.commands", "train_main", result_is_printed=False)


def evaluate() -> NoReturn:
    """Run ``mindspore-thor-eval``."""
    _run("mindspore_thor.run.commands", "eval_main")


def export() -> NoReturn:
    """Run ``mindspore-thor-export``."""
    _run("mindspore_thor.run.export", "export_main")


def _run(module: str, name: str, *, result_is_printed: bool = True) -> NoReturn:
    if hasattr(signal, "pthread_sigmask"):
        # So that Ctrl-C leaves no traceback of an import; run_program takes over.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))

    @one_line_errors  # of the imports
    def main() -> int:
        models = shipped_models()
        work: Callable[[Any, ModelCatalogue], int] = getattr(importlib.import_module(module), name)
        return work(None, models)

    run_program(main, holds_signals=True, result_is_printed=result_is_printed)
