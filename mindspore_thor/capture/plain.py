"""A layer with capture is a plain layer to everybody but the training graphs.

Copies, pickles and exported models hold the layer as it was before, without hook or class of our
own; and what cannot be had of a layer with capture is refused in one line.
"""

from __future__ import annotations

from typing import Any, NoReturn

import mindspore as ms
from mindspore import nn

from mindspore_thor.errors import UserError

HOOK = "_thor_hook"
RESTORE = "_thor_restore"
BIAS_ADD = "_thor_bias_add"


def refuse_rewriting() -> NoReturn:
    """Say that MindSpore's mixed precision of level O1, which rewrites a network, comes too late.

    It would leave out the operators that hooks have taken over, or make hooks and all their state a
    part of the network.

    Raises:
        UserError: Always.
    """
    raise UserError(
        "mixed precision cannot rewrite a network that an optimizer already captures: call "
        'net = amp.auto_mixed_precision(net, "O1") first, make the optimizer of that net, and '
        "leave amp_level out of Model"
    )


class _NoSource:
    """Answers ``inspect``, which asks a class for what it wraps before it looks for its source."""

    def __get__(self, instance: object, owner: type) -> NoReturn:
        if instance is not None:
            raise AttributeError("__wrapped__")
        refuse_rewriting()


NO_SOURCE = _NoSource()


def exports(cell: nn.Cell) -> bool:
    """Whether the graph that is being compiled is of a model to export (``ms.export``)."""
    # MindSpore tells all cells of a network what it is compiled for, but says nothing where it is
    # compiled as a part of a function later on. An export alone allows only the graph's own syntax.
    phase = getattr(cell, "compile_phase", None) or ""
    return phase.startswith("export") and ms.get_context("jit_syntax_level") == ms.STRICT


def same(value: Any) -> Any:
    """What a copy of a hook is made of: the operator that the hook has replaced."""
    return value


def plain_state(cell: nn.Cell, reduced: Any) -> Any:
    """What a copy or a pickle of a layer is made from, without capture.

    Args:
        cell: a layer whose class was replaced.
        reduced: what ``__reduce_ex__`` of that class returns.

    Returns:
        The same for the class that was replaced.
    """
    make, arguments, (base, attributes), *rest = reduced
    original = attributes[RESTORE][1]
    arguments = tuple(original if value is type(cell) else value for value in arguments)
    kept = {name: value for name, value in attributes.items() if name not in (HOOK, RESTORE)}
    return (make, arguments, (base, kept), *rest)
