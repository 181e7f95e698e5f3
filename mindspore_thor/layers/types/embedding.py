"""``nn.Embedding``."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindspore_thor.graph.shared import Maker
from mindspore_thor.layers.layer_type import Form, LayerType


class EmbeddingRows(nn.Cell):
    """``nn.Embedding``: the input factor is the diagonal of token counts over the batch size.

    Args:
        vocab_size: rows of the table.
        embedding_size: length of an embedding.
    """

    groups = 1
    transposed = False

    def __init__(self, vocab_size: int, embedding_size: int) -> None:
        super().__init__()
        self.d_in = vocab_size
        self.d_out = embedding_size

    @property
    def matrix(self) -> tuple[int, int]:
        """[vocab_size, embedding_size], as the table."""
        return self.d_in, self.d_out

    def apply(self, ids: Tensor, table: Tensor) -> Tensor:
        """The look-up, [N, ...] -> [N, ..., embedding_size]."""
        return ops.gather(table, ids, 0)

    def counts(self, ids: Tensor, weights: Tensor | None = None) -> Tensor:
        """float32 [vocab_size]: how often each token occurs, divided by the batch size N.

        With ``weights``, one for every id (0 for padding), an id counts that much.
        """
        flat = ids.reshape(-1)
        if weights is None:
            weights = ops.ones(flat.shape, ms.float32)
        weights = weights.reshape(flat.shape)
        return ops.unsorted_segment_sum(weights, flat, self.d_in) * (1.0 / ids.shape[0])

    def samples(self, ids: Tensor) -> int:
        """Number of samples N."""
        return ids.shape[0]

    def output_columns(self, dout: Tensor) -> Tensor:
        """G as [N*S, 1, embedding_size, 1] with g = N * dL/ds."""
        return dout.reshape((-1, 1, self.d_out, 1)) * dout.shape[0]


class CapturedEmbedding(nn.Embedding):
    """``nn.Embedding`` whose look-up sees the ids before they are flattened."""

    def construct(self, ids: Tensor) -> Tensor:
        """See the class."""
        return self._thor_hook(self.embedding_table, ids, 0)


def _rows(make: Maker, cell: Any, token_mode: str) -> EmbeddingRows:
    return make(EmbeddingRows, *cell.embedding_table.shape)


def _why_not(cell: Any) -> str:
    if EMBEDDING.own_construct(cell):
        # The layer's operator sees flattened ids, from which the batch size cannot be told.
        return "own construct: plain gradient"
    return ""


EMBEDDING = LayerType(
    nn.Embedding,
    _rows,
    operator="gather",
    form=Form.LOOK_UP,
    captured=CapturedEmbedding,
    weight="embedding_table",
    bias="",
    bias_operator="",
    why_not=_why_not,
)
