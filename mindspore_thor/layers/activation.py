"""The elementwise activation behind a layer, where it can be told without running the net."""

from __future__ import annotations

from mindspore import nn

from mindspore_thor.layers.coverage import CoveredLayer

ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SeLU, nn.GELU, nn.FastGelu, nn.SiLU,
    nn.Mish, nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.HSwish, nn.HSigmoid, nn.Softsign,
)  # fmt: skip
"""Activations that treat every number alike and have no parameters."""


def find_activations(net: nn.Cell) -> dict[int, nn.Cell]:
    """Activations that directly follow a cell in a ``SequentialCell``.

    Returns:
        id of the layer -> the activation.
    """
    found = {}
    for _, cell in net.cells_and_names():
        if isinstance(cell, nn.SequentialCell):
            parts = list(cell)
            for layer, following in zip(parts, parts[1:]):
                if isinstance(following, ELEMENTWISE):
                    found[id(layer)] = following
    return found


def activation_of(layer: CoveredLayer, following: dict[int, nn.Cell]) -> tuple[nn.Cell | None, str]:
    """The activation phi whose derivative a layer-wise sample needs.

    Args:
        layer: a covered layer.
        following: what :func:`find_activations` found.

    Returns:
        phi, or None for the identity; and what was assumed, for the layer report.
    """
    if layer.own_construct:
        return None, "own construct: phi' = 1, plain bias gradient"
    own = getattr(layer.cell, layer.type.activation or "", None)
    if own is not None:
        name = type(own).__name__
        if isinstance(own, ELEMENTWISE):
            return own, f"phi = {name} (its own)"
        return None, f"phi' = 1: {name} is not a known elementwise activation"
    activation = following.get(id(layer.cell))
    if activation is not None:
        return activation, f"phi = {type(activation).__name__} (next in its SequentialCell)"
    return None, "phi' = 1: no activation is known to follow directly"
