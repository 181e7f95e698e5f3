"""Layer types: their geometry, which of a network's layers are covered, and why others are not.

A file in ``types/`` per layer type. :func:`register_layer_type` adds one from anywhere else; see
docs/add_a_layer_type.md.
"""

from mindspore_thor.layers.layer_type import Form, LayerType
from mindspore_thor.layers.registry import layer_type_of, register_layer_type
from mindspore_thor.layers.rows import LinearRows

__all__ = ["Form", "LayerType", "LinearRows", "layer_type_of", "register_layer_type"]
