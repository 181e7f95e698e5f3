"""Measurements in processes of their own."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, TypeVar

from mindspore_thor.errors import UserError

Result = TypeVar("Result")


class ProcessEnded(UserError):
    """The process that should have measured something was ended."""


def in_own_process(
    what: str, option: str, function: Callable[..., Result], *arguments: Any
) -> Result:
    """Run a function in a fresh process: MindSpore survives no fork and frees no memory.

    Args:
        what: what it measures, for the message.
        option: of the command line, which says what is measured.
        function: of a module.
        *arguments: its arguments.

    Returns:
        What it returns.

    Raises:
        ProcessEnded: where the process ended without.
    """
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise ProcessEnded(
                f"{what}: the process that measured it was ended; where memory ran out, "
                f"close other programs, or measure the other methods with {option}"
            ) from error
