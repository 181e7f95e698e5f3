"""Process-wide settings that must be in place before MindSpore runs its first operator."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
from pathlib import Path

from mindspore_thor.errors import UserError

logger = logging.getLogger("mindspore_thor")

DISPATCH_THREADS = 5
"""Threads with which MindSpore's runtime launches an Ascend's kernels: MindSpore's own default."""

_ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


def _has_avx512() -> bool:
    try:
        return "avx512f" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def limit_onednn() -> str | None:
    """Keep oneDNN off its reference convolution on AVX-512 machines.

    MindSpore's CPU Conv2D keeps plain NCHW layouts, for which oneDNN has no fast AVX-512 forward
    convolution: it falls back to a reference loop about 30 times slower than its AVX2 code. oneDNN
    reads the variable at its first primitive, so this runs when the package is imported.

    Returns:
        The line that says what was done, or None where nothing had to be.
    """
    if any(name in os.environ for name in _ISA_VARIABLES) or not _has_avx512():
        return None
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    return (
        "oneDNN limited to AVX2 (ONEDNN_MAX_CPU_ISA=AVX2): its AVX-512 convolution is about "
        "30 times slower on MindSpore's layouts; set the variable yourself to override"
    )


NOTICE = limit_onednn()
"""The line for the log; the command lines print it, a library user finds it at level INFO."""
if NOTICE:
    logger.info(NOTICE)


DEFAULT_CALL_DEPTH = 1000
"""How deep MindSpore's compiler may nest calls by default."""

CALL_DEPTH = 10000
"""How deep it may here; MindSpore's own nn.thor sets the same number."""


def prepare_target(target: str | None = None) -> None:
    """Choose the device and set what the compiler needs before anything is compiled.

    The limit on nested calls is raised unless ``ms.set_context(max_call_depth=...)`` chose another
    one. What ``ms.set_recursion_limit`` was given cannot be read: call that after the last
    optimizer and ``TrainStep`` are built. Compilation gets cheaper, for the user's own graphs, too
    (:func:`read_arguments_in_python`).

    Args:
        target: "CPU", "GPU" or "Ascend"; None for what MindSpore takes by itself.

    Raises:
        UserError: If this MindSpore, or this machine, has no such device.
    """
    import mindspore as ms

    if target is not None:
        _set_device(target)
    read_arguments_in_python()
    if ms.get_context("max_call_depth") == DEFAULT_CALL_DEPTH:
        # The backward pass of FNGD on ResNet-50 is nested deeper than MindSpore allows by default.
        ms.set_recursion_limit(CALL_DEPTH)
    if ms.get_context("device_target") == "Ascend":
        # MindSpore 2.10 builds graphs with lazy branches, which the trace rule and the guard are,
        # where this is set, even to its default. It can be set once: somebody else's choice stays.
        with contextlib.suppress(RuntimeError):
            ms.runtime.dispatch_threads_num(DISPATCH_THREADS)


@functools.cache
def read_arguments_in_python() -> bool:
    """Let shapes and axes of operators cost MindSpore's compiler next to nothing.

    It sends every shape, axis, window and permutation through a Python function that looks at each
    number in turn, and evaluates that function as part of the graph, at every use: a quarter of
    what the step of a small network takes to compile (MindSpore 2.10, CPU). Here that very function
    gets the mark that MindSpore gives such functions of its own: it runs in Python where its
    argument is known while the graph is compiled, and is compiled as before where it is not.
    Graphs stay the same, operator for operator.

    Returns:
        Whether this MindSpore has the function and the mark. Without them all works, more slowly.
    """
    try:
        from mindspore.ops._utils import arg_handler
        from mindspore.ops.primitive import _primexpr

        arg_handler._normalize_int_sequence = _primexpr(arg_handler._normalize_int_sequence)
    except (ImportError, AttributeError):
        return False
    return True


def _set_device(target: str) -> None:
    import mindspore as ms

    former = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # MindSpore logs a paragraph for each library that is missing
    try:
        ms.set_device(target)
    except RuntimeError as error:
        text = str(error)
        if "Unsupported device target" not in text:
            raise
        there = re.search(r"supports? one of the \[([^\]]*)\]", text)
        names = there[1].replace("'", "") if there else "another one"
        library = re.search(r"(\S+\.so\S*): cannot open", text) if target == "Ascend" else None
        cause = f" ({library[1]} is missing)" if library else ""
        raise UserError(
            f"device target {target}: this MindSpore {ms.__version__} has {names} here{cause}; "
            f"give --train.device_target {names.split(',')[0]}, or install MindSpore and the "
            f"drivers for {target}"
        ) from None
    finally:
        logging.disable(former)
