"""Layer types of mindformers' linear layers and of its look-up."""

from __future__ import annotations

from typing import Any

from mindspore import Tensor, nn, ops
from mindspore.context import ParallelMode
from mindspore.parallel._utils import _get_parallel_mode

from mindspore_thor.graph.shared import Maker
from mindspore_thor.layers.layer_type import Form, LayerType
from mindspore_thor.layers.types.dense import DenseRows
from mindspore_thor.layers.types.embedding import EmbeddingRows

_WHOLE = (ParallelMode.STAND_ALONE, ParallelMode.DATA_PARALLEL)


def _split(cell: Any) -> str:
    """Why a layer's statistics would be those of a part of it, or an empty string."""
    if (getattr(cell.config, "tensor_model_parallel_size", None) or 1) > 1:
        return "split by tensor parallelism: plain gradient"
    if _get_parallel_mode() not in _WHOLE:
        return f"parallel mode {_get_parallel_mode()}: plain gradient"
    return ""


def _changed(cell: nn.Cell, known: type[nn.Cell], names: tuple[str, ...]) -> str:
    """Why a subclass (LoRA's, for instance) computes something else, or an empty string."""
    if any(getattr(type(cell), name) is not getattr(known, name) for name in names):
        return f"{type(cell).__name__} has a forward pass of its own: plain gradient"
    return ""


def linear_type(linear: type[nn.Cell]) -> LayerType:
    """Return the layer type of ``ColumnParallelLinear`` or ``RowParallelLinear``.

    They put the sequence first, [S, N, d], and return (output, bias or None). Captured, the product
    sees [N, S, d], as that of ``nn.Dense``.

    Args:
        linear: the class.
    """

    class Captured(linear):
        def construct(self, input_: Tensor, weight: Any = None) -> tuple[Tensor, Any]:
            """The layer's own forward pass, with a hook in the place of the product."""
            x = ops.cast(input_, self.compute_dtype)
            if len(x.shape) == 3:
                x = x.transpose((1, 0, 2))
            x = self._thor_hook(x, self.weight)
            if len(x.shape) == 3:
                x = x.transpose((1, 0, 2))
            bias = self.bias
            if self.has_bias and not self.skip_bias_add:
                x = x + ops.cast(bias, self.compute_dtype)
                bias = None
            return ops.cast(x, input_.dtype), bias

    def rows(make: Maker, cell: Any, token_mode: str) -> DenseRows:
        return make(DenseRows, cell.weight.shape[1], cell.weight.shape[0], token_mode)

    def why_not(cell: Any) -> str:
        if not cell.transpose_b:
            return "weight [inputs, outputs] (transpose_b=False): plain gradient"
        names = ("construct", "forward_func", "forward_func_with_bias")
        return _split(cell) or _changed(cell, linear, names)

    return LayerType(
        linear, rows, operator="matmul", captured=Captured, bias_operator="", why_not=why_not
    )


def embedding_type(embedding: type[nn.Cell]) -> LayerType:
    """Return the layer type of ``VocabParallelEmbedding``.

    Args:
        embedding: the class.
    """

    class Captured(embedding):
        def construct(self, input_: Tensor) -> Tensor:
            """The look-up by a hook."""
            return self._thor_hook(self.weight, input_, 0)

    def rows(make: Maker, cell: Any, token_mode: str) -> EmbeddingRows:
        return make(EmbeddingRows, *cell.weight.shape)

    def why_not(cell: Any) -> str:
        return _split(cell) or _changed(cell, embedding, ("construct", "embedding_func"))

    return LayerType(
        embedding,
        rows,
        operator="embedding_morph",
        form=Form.LOOK_UP,
        captured=Captured,
        bias="",
        bias_operator="",
        why_not=why_not,
    )
