"""BERT with its two heads (Devlin et al., "BERT", 2019): masked words, and the next sentence.

Plain cells: the layers are those of the Transformer's encoder, in post-norm and with GELU. The
masked-word head multiplies with the table of the word embedding. That table has two uses, so that
second-order methods move it by the plain gradient (or AdamW's), never by a look-up's statistics.
"""

from __future__ import annotations

import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore import dtype as mstype
from mindspore.common.initializer import TruncatedNormal

from mindspore_thor import mark_tokens
from mindspore_thor.errors import UserError

from ..transformer.attention import dense
from ..transformer.dropout import TokenDropout, refuse_silence, token_noise
from ..transformer.layers import EncoderLayer
from ..transformer.transformer import HIDDEN, split_shape

EPSILON = 1e-12
DEVIATION = 0.02
"""Of the initial weights, normal and cut at two deviations."""

_SEGMENTS = 2


@ops.constexpr
def _places(sequences: int, length: int, most: int) -> Tensor:
    """The position of every token, int32 [N, S]."""
    if length > most:
        raise UserError(
            f"a sequence of {length} tokens, the model's max_length is {most}: give shorter ones, "
            "or make the model with a larger max_length"
        )
    return Tensor(np.tile(np.arange(length, dtype=np.int32), (sequences, 1)))


@ops.constexpr
def _starts(sequences: int, length: int) -> Tensor:
    """Where a sequence begins when all tokens stand in one row, int32 [N, 1]."""
    return Tensor(np.arange(sequences, dtype=np.int32).reshape(-1, 1) * length)


class Bert(nn.Cell):
    """Logits of masked words, and of whether the second sentence follows the first.

    Args:
        vocab_size: Ids of words.
        width: Features d of a token.
        hidden: Features inside of the feed-forward nets.
        heads: Heads of every attention; d / heads is a whole number.
        layers: Number of layers.
        dropout: Share of embeddings and of sublayers' outputs that training drops.
        attention_dropout: Share of the attention weights that training drops.
        max_length: Longest sequence.
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
        max_length: int,
    ) -> None:
        super().__init__()
        self.vocab_size, self.max_length = vocab_size, max_length
        self.width, self.heads = width, heads
        self.drops, self.silenced = dropout > 0, max(dropout, attention_dropout) > 0
        # Bounds are absolute ones.
        init = TruncatedNormal(DEVIATION, 0.0, -2 * DEVIATION, 2 * DEVIATION)
        self.embedding = nn.Embedding(vocab_size, width, embedding_table=init)
        self.position_embedding = nn.Embedding(max_length, width, embedding_table=init)
        self.segment_embedding = nn.Embedding(_SEGMENTS, width, embedding_table=init)
        self.embedding_norm = nn.LayerNorm((width,), epsilon=EPSILON)
        if self.drops:
            self.embedding_dropout = TokenDropout(width, dropout, 0)
        self.layers = nn.CellList(
            [
                EncoderLayer(
                    width,
                    hidden,
                    heads,
                    norm_first=False,
                    bias=True,
                    dropout=dropout,
                    attention_dropout=attention_dropout,
                    most=max_length,
                    number=number,
                    epsilon=EPSILON,
                    gelu=True,
                    init=init,
                    # The heads look at masked words and at the first token alone.
                    marks=number == layers,
                )
                for number in range(1, layers + 1)
            ]
        )
        self.transform = dense(width, width, init=init)
        self.transform_norm = nn.LayerNorm((width,), epsilon=EPSILON)
        self.output_bias = Parameter(Tensor(np.zeros(vocab_size, np.float32)), name="output_bias")
        self.pooler = dense(width, width, init=init)
        self.next_sentence = dense(width, _SEGMENTS, init=init)
        self.gelu, self.tanh = ops.GeLU(), ops.Tanh()
        self.first = ops.Slice()
        self.reshape, self.gather = ops.Reshape(), ops.Gather()
        self.matmul = ops.MatMul(transpose_b=True)

    def encode(
        self, ids: Tensor, segments: Tensor, mask: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """Map tokens to their features.

        Args:
            ids: Words, int32 [N, S].
            segments: 0 for the first sentence and 1 for the second, int32 [N, S].
            mask: 1 for tokens and 0 for padding, int32 [N, S].
            noise: See ``construct``.

        Returns:
            float32 [N, S, d].
        """
        size, length = ids.shape
        real = ops.not_equal(mask, 0)
        hidden = ops.cast(ops.equal(mask, 0), mstype.float32) * HIDDEN
        hidden = self.reshape(hidden, (size, 1, 1, length))
        numbers = None
        if self.training and self.silenced:
            if noise is None:
                refuse_silence()
            else:
                numbers = token_noise(noise, length)
        split = split_shape(ids.shape, self.heads, self.width)
        x = self.embedding(ids) + self.segment_embedding(segments)
        x = x + self.position_embedding(_places(size, length, self.max_length))
        x = self.embedding_norm(x)
        if self.drops and numbers is not None:
            x = self.embedding_dropout(x, numbers)
        for layer in self.layers:
            x = layer(x, hidden, real, numbers, split)
        return x

    def masked_words(self, x: Tensor, positions: Tensor) -> Tensor:
        """Map features [N, S, d] and positions int32 [N, P] to logits [N, P, V]."""
        size, length, width = x.shape
        places = positions + _starts(size, length)
        y = self.transform(self.gather(self.reshape(x, (size * length, width)), places, 0))
        y = mark_tokens(y, ops.greater(positions, 0))
        y = self.reshape(self.transform_norm(self.gelu(y)), (-1, width))
        logits = self.matmul(y, self.embedding.embedding_table) + self.output_bias
        return self.reshape(logits, (size, positions.shape[1], self.vocab_size))

    def follows(self, x: Tensor) -> Tensor:
        """Map features [N, S, d] to logits [N, 2] of the classes "follows" and "does not"."""
        size, _, width = x.shape
        first = self.reshape(self.first(x, (0, 0, 0), (size, 1, width)), (size, width))
        return self.next_sentence(self.tanh(self.pooler(first)))

    def construct(
        self,
        ids: Tensor,
        segments: Tensor,
        mask: Tensor,
        positions: Tensor,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Map two sentences to both heads' logits.

        Args:
            ids: Words, int32 [N, S]: [CLS], first sentence, [SEP], second sentence, [SEP], padding.
            segments: 0 up to the first [SEP], 1 up to the second, int32 [N, S].
            mask: 1 for tokens and 0 for padding, int32 [N, S].
            positions: Which words are asked for, int32 [N, P]; 0 behind the last one.
            noise: A number for each pair, int32 [N], on which the masks of the dropout depend: a
                training needs other ones in every step. Nothing is dropped elsewhere.

        Returns:
            float32 [N, P, V]: of the words at the positions; float32 [N, 2]: of the classes "the
            second sentence follows" (0) and "it does not" (1).
        """
        x = self.encode(ids, segments, mask, noise)
        return self.masked_words(x, positions), self.follows(x)
