"""Capture: turning an ordinary network into one whose backward pass can hand out statistics."""

from mindspore_thor.nn.attach import attach, detach, owner_of
from mindspore_thor.nn.coverage import CoveredLayer, LayerRow, find_layers

__all__ = ["CoveredLayer", "LayerRow", "attach", "detach", "find_layers", "owner_of"]
