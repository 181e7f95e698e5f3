"""Running a script of mindcv's, ``train.py`` or ``validate.py``, with its own arguments."""

from __future__ import annotations

import argparse
import importlib
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mindspore_thor.command_line import one_line_errors
from mindspore_thor.errors import UserError, quoted

USAGE = "python -m mindspore_thor.adapters.mindcv train.py --config C.yaml [mindcv's arguments]"


def _mapping(text: str) -> dict[str, Any]:
    """A value of ``--opt_options``."""
    from mindspore_thor.adapters.mindcv.choice import OPTIONS
    from mindspore_thor.run.yaml_files import parse_value

    found = parse_value(text, f"--{OPTIONS}")
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{quoted(text)}; give '{{name: value, ...}}'")
    return found


def extend(config: Any, check: Callable[[dict[str, Any]], None]) -> None:
    """Let mindcv's ``config.py`` know the methods and the key with their options.

    Args:
        config: The module beside the script.
        check: Called with all settings when they are read.
    """
    from mindspore_thor.adapters.mindcv.choice import OPTIONS, names

    create_parser, parse_args = config.create_parser, config.parse_args

    def with_methods() -> Any:
        parser_config, parser = create_parser()
        for action in parser._actions:
            if action.dest == "opt" and action.choices is not None:
                action.choices = [*action.choices, *names()]
        parser.add_argument(
            f"--{OPTIONS}", type=_mapping, help="options of a method of mindspore_thor"
        )
        return parser_config, parser

    def checked(args: Any = None) -> Any:
        found = parse_args(args)
        check(vars(found))
        return found

    config.create_parser, config.parse_args = with_methods, checked


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the script that the first argument names; the others are its own.

    Args:
        argv: Arguments without the program's name; None for the process's own.

    Returns:
        Exit code: 0 done, 2 wrong input. Whatever else the script raises passes.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["-h"], ["--help"]):
        print(f"usage: {USAGE}\n\nRuns mindcv's script with the methods of mindspore_thor.")
        return 0
    if not words or words[0].startswith("-"):
        raise UserError(f"the first argument is mindcv's script: {USAGE}")
    script = Path(words[0])
    if not script.is_file():
        raise UserError(
            f"{words[0]}: there is no such file; give mindcv's train.py, from its repository"
        )
    from mindspore_thor.adapters.mindcv.replace import install

    replacement = install()
    folder = str(script.resolve().parent)
    sys.path.insert(0, folder)
    if (script.resolve().parent / "config.py").is_file():
        config = importlib.import_module("config")
        if str(Path(str(config.__file__)).resolve().parent) == folder:
            extend(config, replacement.check)
    before, sys.argv = sys.argv, [str(script), *words[1:]]
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = before
    return 0
