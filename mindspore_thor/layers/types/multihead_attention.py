"""``nn.MultiheadAttention``, which calls no operator of its own on its weights.

They go into one function, from where a hook cannot tell the products apart. Its ``out_proj`` is a
``nn.Dense`` that is never called; coverage.py finds that out by itself.
"""

from __future__ import annotations

from mindspore import nn

from mindspore_thor.layers.layer_type import Form, LayerType


def _why_not(cell: nn.Cell) -> str:
    return "its products are made in one function: plain gradient"


MULTIHEAD_ATTENTION = LayerType(
    nn.MultiheadAttention,
    form=Form.PLAIN,
    weight="in_proj_weight",
    bias="in_proj_bias",
    why_not=_why_not,
)
