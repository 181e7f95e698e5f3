"""Attaching capture to a network in place, and removing it again.

The layers stay who they are: same objects, same classes for ``isinstance``, same parameters and
names. Only the operator inside a layer is replaced by a hook, and the hook is kept out of the
cell's registry so that no probe or factor can reach the network's parameters or checkpoints.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from mindspore import nn

from mindspore_thor.capture.direct import DirectCapture, DirectHook, NoBias
from mindspore_thor.capture.hooks import Capture, GatherHook, Hook, Replacement
from mindspore_thor.capture.plain import BIAS_ADD as _BIAS_ADD
from mindspore_thor.capture.plain import HOOK as _HOOK
from mindspore_thor.capture.plain import NO_SOURCE, plain_state
from mindspore_thor.capture.plain import RESTORE as _RESTORE
from mindspore_thor.graph.shared import Maker
from mindspore_thor.layers.coverage import CoveredLayer
from mindspore_thor.layers.layer_type import Form

_HOOKS = {Form.LINEAR: Hook, Form.LOOK_UP: GatherHook}


class _Captured(nn.Cell):
    """What the classes that take a layer's place have in common."""

    __wrapped__ = NO_SOURCE

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A copy is of the layer's own class, and without a hook."""
        return plain_state(self, super().__reduce_ex__(protocol))


def _derived_class(captured: type, original: type) -> type:
    bases = (captured,) if original in captured.__mro__ else (captured, original)
    return type(original.__name__, (_Captured, *bases), {"__module__": __name__})


def attach(
    layer: CoveredLayer,
    curvature: nn.Cell,
    number: int,
    owner: Any,
    make: Maker,
) -> Replacement:
    """Make a layer's backward pass hand out statistics.

    Args:
        layer: the layer, as found by :func:`mindspore_thor.layers.coverage.find_layers`.
        curvature: the curvature of the layer's group (probes, state and rule).
        number: the layer's number in it.
        owner: the optimizer: its ``due`` (int32 scalar parameter, above 0 where the step collects
            statistics), ``graph`` (what the graph being compiled is for) and ``inverse_scale``
            (what undoes the loss scale on output gradients) go into the layer's hook.
        make: makes one capture for all layers that are alike.

    Returns:
        The layer's hook.
    """
    detach(layer.cell)
    due, graph, inverse_scale = owner.due, owner.graph, owner.inverse_scale
    if getattr(curvature, "direct", False):
        return _attach_direct(layer, curvature, owner)
    assert layer.rows is not None
    hook = _HOOKS[layer.type.form](
        make(
            Capture,
            layer.rows,
            curvature.make_rule(make, layer.rows),
            curvature.size,
            inverse_scale,
            graph,
            curvature.stops,
        ),
        curvature,
        number,
        due,
        graph,
    )
    return _install(layer, hook, owner)


def _install(layer: CoveredLayer, hook: Replacement, owner: Any) -> Replacement:
    cell, captured = layer.cell, layer.type.captured
    # object.__setattr__ bypasses the cell's registry on purpose: see the module's text.
    object.__setattr__(hook, "layer", cell)
    object.__setattr__(hook, "owner", weakref.ref(owner))
    if captured is not None and not layer.own_construct:
        object.__setattr__(cell, _RESTORE, ("__class__", type(cell)))
        object.__setattr__(cell, _HOOK, hook)
        cell.__class__ = _derived_class(captured, type(cell))
    else:
        name = layer.type.operator
        object.__setattr__(cell, _RESTORE, (name, getattr(cell, name)))
        object.__setattr__(hook, "replaced", getattr(cell, name))
        object.__setattr__(cell, name, hook)
    return hook


def owns_bias(layer: CoveredLayer) -> bool:
    """Whether a hook may take over a layer's bias: it is trained, and added right after the map."""
    return layer.bias >= 0 and bool(layer.type.bias_operator) and not layer.own_construct


def _attach_direct(layer: CoveredLayer, curvature: nn.Cell, owner: Any) -> Replacement:
    """Attach a curvature that makes the gradients of weight and bias itself."""
    cell, entry = layer.cell, layer.type
    with_bias = owns_bias(layer)
    capture = DirectCapture(
        curvature.make_direct_rule(with_bias, owner.inverse_scale),
        curvature.graph,
        bool(curvature.direction_probes),
    )
    bias = getattr(cell, entry.bias) if with_bias else None
    hook = DirectHook(capture, curvature, owner.due, bias)
    if with_bias:
        name = entry.bias_operator
        operator = getattr(cell, name, None) or getattr(entry.captured, name)
        object.__setattr__(cell, _BIAS_ADD, (name, operator))
        object.__setattr__(cell, name, NoBias(operator))
    return _install(layer, hook, owner)


def owner_of(cell: nn.Cell) -> Any:
    """The optimizer that :func:`attach` was called for; None where there is none any more."""
    saved = cell.__dict__.get(_RESTORE)
    if saved is None:
        return None
    hook = cell.__dict__[_HOOK] if saved[0] == "__class__" else getattr(cell, saved[0])
    # A copy of a layer has its operator in the place of the hook.
    return hook.owner() if hasattr(hook, "owner") else None


@contextmanager
def without_hooks(cells: Iterable[nn.Cell]) -> Iterator[None]:
    """While this holds, layers are as they were before :func:`attach`.

    For graphs that capture nothing: the compiler would find that out by itself, after seconds.

    Args:
        cells: layers with hooks whose forward and backward pass are the plain ones.
    """
    hidden = []
    try:
        for cell in cells:
            saved = cell.__dict__.get(_RESTORE)
            if saved is not None:
                name, value = saved
                hidden.append((cell, name, getattr(cell, name)))
                _replace(cell, name, value)
        yield
    finally:
        for cell, name, value in hidden:
            _replace(cell, name, value)


def _replace(cell: nn.Cell, name: str, value: Any) -> None:
    if name == "__class__":
        cell.__class__ = value
    else:
        object.__setattr__(cell, name, value)


def detach(cell: nn.Cell) -> None:
    """Undo :func:`attach` on one cell; does nothing to a cell without capture."""
    bias_operator: tuple[str, Any] | None = cell.__dict__.get(_BIAS_ADD)
    if bias_operator is not None:
        object.__setattr__(cell, *bias_operator)
        object.__delattr__(cell, _BIAS_ADD)
    saved: tuple[str, Any] | None = cell.__dict__.get(_RESTORE)
    if saved is None:
        return
    name, value = saved
    _replace(cell, name, value)
    if name == "__class__":
        object.__delattr__(cell, _HOOK)
    object.__delattr__(cell, _RESTORE)
