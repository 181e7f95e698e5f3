"""A decoder-only Transformer (Radford et al. 2018): the logits of every next token.

Plain cells: the layers are those of the Transformer's encoder, in pre-norm and with GELU, under a
mask that hides what comes later. One table looks tokens up and makes the logits. It has two uses,
so that second-order methods move it by the plain gradient (or AdamW's), never by a look-up's
statistics.
"""

from __future__ import annotations

from typing import Any

from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype
from mindspore.common.initializer import Normal

from mindspore_thor.errors import UserError

from ..transformer.dropout import TokenDropout, refuse_silence, token_noise
from ..transformer.layers import EPSILON, EncoderLayer
from ..transformer.transformer import HIDDEN, PAD, future, sinusoids, split_shape


@ops.constexpr
def _part(length: int, width: int, context: int) -> tuple[int, int]:
    """The size of the slice of the position table."""
    if length > context:
        raise UserError(
            f"a block of {length} tokens, the model's context is {context}: give shorter ones, or "
            "make the model with a larger context"
        )
    return (length, width)


class LanguageModel(nn.Cell):
    """Logits of the token that follows each of a block's.

    Args:
        vocab_size: Ids of tokens. 0 stands behind a block that is shorter than others.
        width: Features d of a token.
        hidden: Features inside of the feed-forward nets.
        heads: Heads of every attention; d / heads is a whole number.
        layers: Number of layers.
        dropout: Share of embeddings and of sublayers' outputs that training drops.
        attention_dropout: Share of the attention weights that training drops.
        context: Longest block.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        hidden: int,
        heads: int,
        layers: int,
        dropout: float,
        attention_dropout: float,
        context: int,
    ) -> None:
        super().__init__()
        self.vocab_size, self.context = vocab_size, context
        self.width, self.heads = width, heads
        self.drops, self.silenced = dropout > 0, max(dropout, attention_dropout) > 0
        self.embedding = nn.Embedding(vocab_size, width, embedding_table=Normal(width**-0.5))
        # The first token sees itself alone: its query has no gradient, and is a token all the same.
        options: dict[str, Any] = {"epsilon": EPSILON, "gelu": True, "marks": True}
        shape = (width, hidden, heads, True, True, dropout, attention_dropout, context)
        numbers = range(1, layers + 1)
        self.layers = nn.CellList([EncoderLayer(*shape, number, **options) for number in numbers])
        self.norm = nn.LayerNorm((width,), epsilon=EPSILON)
        if self.drops:
            self.dropout = TokenDropout(width, dropout, 0)
        self.positions = Tensor(sinusoids(context, width))
        self.root = width**0.5
        self.first = ops.Slice()
        self.reshape = ops.Reshape()
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, ids: Tensor, noise: Tensor | None = None) -> Tensor:
        """Map tokens to logits.

        Args:
            ids: Tokens, int32 [N, T].
            noise: A number for each block, int32 [N], on which the masks of the dropout depend: a
                training needs other ones in every step. Nothing is dropped elsewhere.

        Returns:
            float32 [N, T, V]: of the token that follows each.
        """
        noise = self._noise(noise, ids)
        real = ops.not_equal(ids, PAD)
        split = split_shape(ids.shape, self.heads, self.width)
        mask = ops.cast(future(ids.shape[1]), mstype.float32) * HIDDEN
        part = _part(ids.shape[1], self.width, self.context)
        x = self.embedding(ids) * self.root + self.first(self.positions, (0, 0), part)
        if self.drops and noise is not None:
            x = self.dropout(x, noise)
        for layer in self.layers:
            x = layer(x, mask, real, noise, split)
        x = self.reshape(self.norm(x), (-1, self.width))
        logits = self.matmul(x, self.embedding.embedding_table)
        return self.reshape(logits, ids.shape + (self.vocab_size,))  # noqa: RUF005

    def _noise(self, noise: Tensor | None, ids: Tensor) -> Tensor | None:
        """The numbers of the tokens; None where nothing is dropped."""
        if not self.training or not self.silenced:
            return None
        if noise is None:
            refuse_silence()
            return None
        return token_noise(noise, ids.shape[1])
