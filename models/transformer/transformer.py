"""The encoder-decoder Transformer (Vaswani et al., "Attention Is All You Need", 2017).

Plain cells. Every linear map on tokens is an ``nn.Dense`` on [N, S, d]. Padding stands behind the
tokens, or before them: ids of 0 are hidden by -1e9 in place of -inf, so that a row that sees
nothing is no NaN, and the gradient at every padded position is exactly zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype
from mindspore.common.initializer import Normal

from mindspore_thor.errors import UserError

from .attention import dense
from .dropout import TokenDropout, refuse_silence, token_noise
from .layers import EPSILON, DecoderLayer, EncoderLayer

PAD, BOS, EOS, UNK = 0, 1, 2, 3
"""Ids of padding, of a target's beginning, of a sentence's end, and of what is not known."""

HIDDEN = -1e9


def sinusoids(length: int, width: int) -> np.ndarray:
    """Return the position table (Vaswani et al., section 3.5), float32 [length, width].

    Column 2i is sin(p / 10000^(2i / width)) at position p, column 2i + 1 the cosine of the same.
    """
    column = np.arange(width)
    angle = np.arange(length)[:, None] / 10000.0 ** (2 * (column // 2) / width)
    return np.where(column % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


@ops.constexpr
def split_shape(shape: tuple[int, ...], heads: int, width: int) -> tuple[int, ...]:
    """Return the shape of tokens [N, S, d] as heads see them, (N, S, heads, d / heads)."""
    return (*shape, heads, width // heads)


@ops.constexpr
def _first(length: int, width: int, most: int) -> tuple[int, int]:
    """The size of the slice of the position table."""
    if length > most:
        raise UserError(
            f"a sentence of {length} tokens, the model's max_length is {most}: give shorter ones, "
            "or make the model with a larger max_length"
        )
    return (length, width)


@ops.constexpr
def future(length: int) -> Tensor:
    """True where a position may not look, because it is a later one, [1, 1, T, T]."""
    return Tensor(np.triu(np.ones((1, 1, length, length), bool), 1))


class Transformer(nn.Cell):
    """Logits of the next token, for source and target sentences.

    Args:
        vocab_size: Ids of source and target. 0 is padding, 1 begins a target, 2 ends a sentence.
        width: Features d of a token.
        hidden: Features inside of the feed-forward nets.
        heads: Heads of every attention; d / heads is a whole number.
        encoder_layers: Layers of the encoder.
        decoder_layers: Layers of the decoder.
        dropout: Share of embeddings and of sublayers' outputs that training drops.
        attention_dropout: Share of the attention weights that training drops.
        tied: One table is source embedding, target embedding and generator. Else two tables, and
            the generator is a Dense layer without bias.
        norm_first: Normalise before each sublayer, and once more behind encoder and decoder; else
            after each, as the paper does.
        attention_bias: Whether the attentions' Dense layers have biases.
        max_length: Longest sentence.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        hidden: int,
        heads: int,
        encoder_layers: int,
        decoder_layers: int,
        dropout: float,
        attention_dropout: float,
        tied: bool,
        norm_first: bool,
        attention_bias: bool,
        max_length: int,
    ) -> None:
        super().__init__()
        self.vocab_size, self.max_length = vocab_size, max_length
        self.width, self.heads = width, heads
        self.tied, self.norm_first = tied, norm_first
        self.drops, self.silenced = dropout > 0, max(dropout, attention_dropout) > 0
        if tied:
            self.embedding = self._table()
        else:
            self.source_embedding = self._table()
            self.target_embedding = self._table()
            self.generator = dense(width, vocab_size, False)
        options: dict[str, Any] = {
            "width": width,
            "hidden": hidden,
            "heads": heads,
            "norm_first": norm_first,
            "bias": attention_bias,
            "dropout": dropout,
            "attention_dropout": attention_dropout,
            "most": max_length,
        }
        numbers = range(1, encoder_layers + decoder_layers + 1)
        self.encoder = nn.CellList(
            [EncoderLayer(**options, number=n) for n in numbers[:encoder_layers]]
        )
        self.decoder = nn.CellList(
            [DecoderLayer(**options, number=n) for n in numbers[encoder_layers:]]
        )
        if norm_first:
            self.encoder_norm = nn.LayerNorm((width,), epsilon=EPSILON)
            self.decoder_norm = nn.LayerNorm((width,), epsilon=EPSILON)
        if self.drops:
            self.source_dropout = TokenDropout(width, dropout, 0)
            self.target_dropout = TokenDropout(width, dropout, 1)
        self.positions = Tensor(sinusoids(max_length, width))
        self.root = width**0.5
        self.first = ops.Slice()
        self.reshape = ops.Reshape()
        self.matmul = ops.MatMul(transpose_b=True)

    def _table(self) -> nn.Embedding:
        return nn.Embedding(self.vocab_size, self.width, embedding_table=Normal(self.width**-0.5))

    def embed_source(self, ids: Tensor) -> Tensor:
        """Map source ids [N, S] to sqrt(d) times their embeddings, [N, S, d]."""
        table = self.embedding if self.tied else self.source_embedding
        return table(ids) * self.root

    def embed_target(self, ids: Tensor) -> Tensor:
        """Map target ids [N, T] to sqrt(d) times their embeddings, [N, T, d]."""
        table = self.embedding if self.tied else self.target_embedding
        return table(ids) * self.root

    def generate(self, x: Tensor) -> Tensor:
        """Map the decoder's output [N, T, d] to logits [N, T, V]."""
        if self.norm_first:
            x = self.decoder_norm(x)
        if not self.tied:
            return self.generator(x)
        logits = self.matmul(self.reshape(x, (-1, self.width)), self.embedding.embedding_table)
        return self.reshape(logits, x.shape[:2] + (self.vocab_size,))  # noqa: RUF005

    def hidden_padding(self, ids: Tensor) -> Tensor:
        """Return -1e9 at padding and 0 elsewhere, [N, 1, 1, S], for ids [N, S]."""
        padding = ops.cast(ops.equal(ids, PAD), mstype.float32) * HIDDEN
        return self.reshape(padding, (ids.shape[0], 1, 1, ids.shape[1]))

    def _with_positions(self, x: Tensor, length: int) -> Tensor:
        size = _first(length, self.width, self.max_length)
        return x + self.first(self.positions, (0, 0), size)

    def _noises(
        self, noise: Tensor | None, source: Tensor, target: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """The numbers of the source's and the target's tokens; None where nothing is dropped."""
        if not self.training or not self.silenced:
            return None, None
        if noise is None:
            refuse_silence()
            return None, None
        return token_noise(noise, source.shape[1]), token_noise(noise + 1, target.shape[1])

    def encode(self, source: Tensor) -> Tensor:
        """Map source ids int32 [N, S] to the encoder's output, the memory [N, S, d]."""
        return self._encode(source, self.hidden_padding(source), None)

    def _encode(self, source: Tensor, mask: Tensor, noise: Tensor | None) -> Tensor:
        real = ops.not_equal(source, PAD)
        split = split_shape(source.shape, self.heads, self.width)
        x = self._with_positions(self.embed_source(source), source.shape[1])
        if self.drops and noise is not None:
            x = self.source_dropout(x, noise)
        for layer in self.encoder:
            x = layer(x, mask, real, noise, split)
        return self.encoder_norm(x) if self.norm_first else x

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        """Map target ids and the memory to logits.

        Args:
            target: int32 [N, T], beginning with 1.
            memory: What ``encode`` returned, [N, S, d].
            source: The source's ids, int32 [N, S].

        Returns:
            float32 [N, T, V]: of the token that follows each of the target's.
        """
        return self._decode(target, memory, source, self.hidden_padding(source), None)

    def _decode(
        self,
        target: Tensor,
        memory: Tensor,
        source: Tensor,
        mask: Tensor,
        noise: Tensor | None,
    ) -> Tensor:
        real = ops.not_equal(target, PAD)
        split = split_shape(target.shape, self.heads, self.width)
        memory_split = split_shape(source.shape, self.heads, self.width)
        hidden = ops.cast(future(target.shape[1]), mstype.float32) * HIDDEN
        hidden = ops.minimum(hidden, self.hidden_padding(target))
        x = self._with_positions(self.embed_target(target), target.shape[1])
        if self.drops and noise is not None:
            x = self.target_dropout(x, noise)
        for layer in self.decoder:
            x = layer(x, memory, hidden, mask, real, noise, split, memory_split)
        return self.generate(x)

    def construct(self, source: Tensor, target: Tensor, noise: Tensor | None = None) -> Tensor:
        """Map source and target to logits.

        Args:
            source: Ids, int32 [N, S].
            target: Ids, int32 [N, T].
            noise: A number for each sentence, int32 [N], on which the masks of the dropout depend:
                a training needs other ones in every step. Nothing is dropped elsewhere.

        Returns:
            Logits of the next token, float32 [N, T, V].
        """
        mask = self.hidden_padding(source)
        source_noise, target_noise = self._noises(noise, source, target)
        memory = self._encode(source, mask, source_noise)
        return self._decode(target, memory, source, mask, target_noise)

    def translator(self, beam: int, length_penalty: float, max_length: int) -> Any:
        """Return a :class:`~models.transformer.search.Translator` of this net."""
        from .search import Translator  # which imports this module

        return Translator(self, beam=beam, length_penalty=length_penalty, max_length=max_length)
