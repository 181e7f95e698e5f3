"""``nn.MultiheadAttention``: its four products, of which MindSpore makes one function.

The products with query, key and value are three maps side by side, which share one parameter; the
last one is made by ``out_proj``, a ``nn.Dense`` that the class itself never calls. Where the three
have different lengths or no batch axis, or one mask is boolean and the other is not (MindSpore adds
them up), the layer works as MindSpore wrote it, and trains with the plain gradient.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops.function.nn_func import multi_head_attention_forward

from mindspore_thor.graph.shared import Maker
from mindspore_thor.graph.slices import part
from mindspore_thor.layers.layer_type import LayerType
from mindspore_thor.layers.types.dense import DenseRows

MAPS = 3
"""Those of query, key and value."""

_SCORES = ops.BatchMatMul(transpose_b=True)


class CapturedAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` on sequences of one length, with products that can be captured."""

    in_proj_add = ops.Add()

    def construct(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
    ) -> tuple[Tensor, ...]:
        """See the class."""
        equal = len(query.shape) == 3 and query.shape == key.shape and query.shape == value.shape
        if not (equal and _alike(attn_mask, key_padding_mask)):
            return self.as_written(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights
            )
        inputs = ops.concat((query, key, value), 2)
        if not self.batch_first:
            inputs = _turned(inputs)
        n, length, _ = inputs.shape
        heads, size = self.num_heads, self.head_dim
        maps = self._thor_hook(inputs, self.in_proj_weight)
        if self.in_proj_bias is not None:
            maps = self.in_proj_add(maps, ops.cast(self.in_proj_bias, maps.dtype))
        maps = ops.transpose(maps.reshape((n, length, MAPS, heads, size)), (2, 0, 3, 1, 4))
        maps = maps.reshape((MAPS * n * heads, length, size))
        count = n * heads
        scores = _SCORES(part(maps, 0, count) * size**-0.5, part(maps, count, count))
        scores = scores.reshape((n, heads, length, length))
        if attn_mask is not None:
            mask = _added(attn_mask, scores.dtype)
            # [L, S] for all, or [N * heads, L, S].
            scores = scores + (mask if len(mask.shape) == 2 else mask.reshape(scores.shape))
        if key_padding_mask is not None:
            mask = _added(key_padding_mask, scores.dtype)
            scores = scores + mask.reshape((n, 1, 1, length))
        weights = ops.softmax(scores, -1)
        if self.training and self.dropout > 0:
            weights = ops.dropout(weights, self.dropout, True)
        out = ops.bmm(weights.reshape((count, length, length)), part(maps, 2 * count, count))
        out = ops.transpose(out.reshape((n, heads, length, size)), (0, 2, 1, 3))
        out = self.out_proj(out.reshape((n, length, heads * size)))
        if not self.batch_first:
            out = _turned(out)
        if not need_weights:
            return (out,)
        return out, (weights.mean(1) if average_attn_weights else weights)

    def as_written(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        need_weights: bool,
        attn_mask: Tensor | None,
        average_attn_weights: bool,
    ) -> tuple[Tensor, ...]:
        """By MindSpore's own function; ``super()`` has no end where a class is made at run time."""
        turns = self.batch_first and len(query.shape) == 3
        if turns:
            query, key, value = _turned(query), _turned(key), _turned(value)
        out, weights = multi_head_attention_forward(
            query,
            key,
            value,
            self.embed_dim,
            self.num_heads,
            self.in_proj_weight,
            self.in_proj_bias,
            None,
            None,
            False,
            self.dropout,
            self.out_proj.weight,
            self.out_proj.bias,
            training=self.training,
            key_padding_mask=key_padding_mask,
            attn_mask=attn_mask,
            average_attn_weights=average_attn_weights,
            dtype=self.dtype,
        )
        if turns:
            out = _turned(out)
        return (out, weights) if need_weights else (out,)


def _turned(x: Tensor) -> Tensor:
    return ops.transpose(x, (1, 0, 2))


def _boolean(mask: Tensor) -> bool:
    return mask.dtype == ms.bool_ or mask.dtype == ms.uint8


def _alike(first: Tensor | None, second: Tensor | None) -> bool:
    """Whether of two masks both are boolean or neither is, or one is not given."""
    return first is None or second is None or _boolean(first) == _boolean(second)


def _added(mask: Tensor, dtype: Any) -> Tensor:
    """A mask as what is added to scores: -inf where a boolean one is set."""
    if not _boolean(mask):
        return ops.cast(mask, dtype)
    zeros = ops.zeros(mask.shape, dtype)
    return ops.masked_fill(zeros, ops.cast(mask, ms.bool_), ops.cast(float("-inf"), dtype))


def _rows(make: Maker, cell: Any, token_mode: str) -> DenseRows:
    return make(DenseRows, cell.embed_dim, cell.embed_dim, token_mode, MAPS)


def _why_not(cell: Any) -> str:
    if cell.in_proj_weight is None:
        return "kdim or vdim of its own: plain gradient"
    if cell.bias_k is not None or cell.add_zero_attn:
        return "keys and values besides those of its input: plain gradient"
    if type(cell).construct is not nn.MultiheadAttention.construct:
        return "own construct: plain gradient"
    return ""


MULTIHEAD_ATTENTION = LayerType(
    nn.MultiheadAttention,
    _rows,
    operator="multi_head_attention_forward",  # no attribute: subclasses with a construct are plain
    captured=CapturedAttention,
    weight="in_proj_weight",
    bias="in_proj_bias",
    bias_operator="in_proj_add",
    why_not=_why_not,
    unsure="lengths of query, key and value not seen by a TrainStep: plain gradient",
    calls=("out_proj",),
)
