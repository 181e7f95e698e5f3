"""A step's inputs: their number and kinds, and where the batch is."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any, Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindspore_thor.errors import UserError, quoted

Path = tuple  # of ints and strings: the way to an input inside tuples, lists and dicts
CaptureInputs = Callable[[tuple[Any, ...]], tuple[Any, ...]]
"""A step's inputs -> those of a pass that collects statistics, see ``TrainStep``."""
_NESTED = (tuple, list, dict)


def checked_function(capture_inputs: Any) -> CaptureInputs | None:
    """Return what was given as ``capture_inputs``.

    Raises:
        UserError: where it is neither a function nor None.
    """
    if capture_inputs is None or callable(capture_inputs):
        return capture_inputs
    raise UserError(
        f"TrainStep: capture_inputs is {quoted(capture_inputs)}; give a function from a step's "
        "inputs, a tuple, to others, or None"
    )


@ops.constexpr
def refuse_several_outputs() -> None:
    """Raise: what is trained on has to be told."""
    raise UserError(
        "the loss is a tuple, list or dict: make it one tensor, by a cell that returns the "
        "network's loss alone (output[0]), or by a loss_fn that takes the network's output"
    )


def check_mean(shape: tuple[int, ...]) -> None:
    """Refuse a loss of a shape that is no mean's: second-order statistics are those of one.

    Raises:
        UserError: where it is more than one number.
    """
    if math.prod(shape) != 1:
        raise UserError(
            f"the loss has the shape {tuple(shape)}: a second-order method needs the batch's mean, "
            "one number; use reduction='mean', or a cell that returns loss.mean()"
        )


def batch_size(inputs: Any, path: Path) -> int:
    """The length of the first axis of the input at ``path``; also inside compiled graphs."""
    for key in path:
        inputs = inputs[key]
    return inputs.shape[0]


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, _NESTED):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from _leaves(inner, (*path, key))
    else:
        yield path, value


class Inputs:
    """Looks at what a step is called with before MindSpore does, whose errors name no remedy.

    Args:
        net: the network.
        with_label: whether the last input is the loss function's.
        sized: whether somebody has to know the batch size.
    """

    def __init__(self, net: nn.Cell, with_label: bool, sized: bool) -> None:
        self._net = net
        self._with_label = with_label
        self._sized = sized
        self._count = -1

    def taken(
        self, inputs: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], Path]:
        """The inputs for the compiled graphs, and the path to the one that has the batch axis.

        Raises:
            UserError: for inputs by name, too few or too many, NumPy arrays, or no batch axis.
        """
        if keywords:
            raise UserError(
                f"TrainStep takes inputs by position, not by name ({str(next(iter(keywords)))[:40]}"
                "): give them in the order of the network's construct, None for those left out"
            )
        if len(inputs) != self._count:
            self._check_count(inputs)
            self._count = len(inputs)
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim > 0:
            path: Path | None = (0,)
        else:
            path = None
        for i, value in enumerate(inputs):
            if isinstance(value, Tensor):
                if path is None and value.ndim > 0:
                    path = (i,)
                continue
            for inner, leaf in _leaves(value, (i,)):
                if isinstance(leaf, np.ndarray):
                    raise UserError(f"input {i} is or has a NumPy array: give mindspore.Tensor(it)")
                if path is None and isinstance(leaf, Tensor) and leaf.ndim > 0:
                    path = inner
        if path is None and self._sized:
            raise UserError(
                "no input of the step has a batch axis: a second-order method, or accumulate > 1, "
                "needs a tensor whose first axis is the batch"
            )
        if any(isinstance(value, _NESTED) for value in inputs):
            inputs = tuple([_variable(value) for value in inputs])
        return inputs, path or (0,)

    def in_place_of(self, inputs: tuple[Any, ...], other: Any) -> tuple[Any, ...]:
        """Other inputs for the same batch, as the compiled graphs take them.

        Raises:
            UserError: where they are no tuple, too few or too many, or of another batch size.
        """
        if not isinstance(other, tuple):
            raise UserError(f"capture_inputs gave a {type(other).__name__}: a tuple of all inputs")
        (taken, path), (_, known) = self.taken(other, {}), self.taken(inputs, {})
        sizes = batch_size(inputs, known), batch_size(taken, path)
        if sizes[0] != sizes[1]:
            raise UserError(
                f"capture_inputs made {sizes[1]} samples of {sizes[0]}: it may pad samples, but "
                "neither add nor drop any"
            )
        return taken

    def _check_count(self, inputs: tuple[Any, ...]) -> None:
        try:
            signature = inspect.signature(self._net.construct)
        except (TypeError, ValueError):
            return
        own = inputs[:-1] if self._with_label else inputs
        try:
            signature.bind(*own)
        except TypeError:
            label = " and one label for the loss" if self._with_label else ""
            names = ", ".join(signature.parameters)[:80]
            raise UserError(
                f"the step was called with {len(inputs)} inputs; the network takes ({names})"
                f"{label}: put more labels or inputs into one tuple"
            ) from None


def _variable(value: Any) -> Any:
    """A tuple, list or dict of tensors as an input; graphs take others for constants."""
    if isinstance(value, _NESTED) and all(isinstance(leaf, Tensor) for _, leaf in _leaves(value)):
        return ms.mutable(value)
    return value
