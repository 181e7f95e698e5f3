"""``nn.LayerNorm``."""

from __future__ import annotations

from mindspore import nn

from mindspore_thor.layers.layer_type import Form, LayerType

LAYER_NORM = LayerType(
    nn.LayerNorm,
    operator="layer_norm",
    form=Form.ELEMENTWISE,
    weight="gamma",
    bias="beta",
    bias_operator="",
)
