"""The layers of encoder and decoder (Vaswani et al. 2017, section 3.1), pre-norm or post-norm."""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Initializer

from mindspore_thor import mark_tokens

from .attention import Attention, dense
from .dropout import TokenDropout

EPSILON = 1e-6
_DROPOUTS = 5  # at most in one layer: three of sublayers, two of attentions


class FeedForward(nn.Cell):
    """W2 relu(W1 x + b1) + b2, on each token (section 3.3).

    Args:
        width: Features of input and output.
        hidden: Features in between.
        gelu: Whether GELU, by its tanh approximation, stands in place of the ReLU.
        init: Initial weights; None for Xavier-uniform ones.
    """

    def __init__(
        self, width: int, hidden: int, gelu: bool = False, init: Initializer | None = None
    ) -> None:
        super().__init__()
        self.dense1 = dense(width, hidden, init=init)
        self.dense2 = dense(hidden, width, init=init)
        self.activation = ops.GeLU() if gelu else ops.ReLU()

    def construct(self, x: Tensor, real: Tensor | None) -> Tensor:
        """Map [N, S, width] to the same shape.

        Args:
            x: The tokens.
            real: Which of them are no padding, bool [N, S]; None where nothing is differentiated.
        """
        x = self.dense1(x)
        if real is not None:
            x = mark_tokens(x, real)
        return self.dense2(self.activation(x))


class _Layer(nn.Cell):
    """What encoder and decoder layers share: how a sublayer is wrapped.

    Args:
        norm_first: x + f(norm(x)), in place of the paper's norm(x + f(x)).
        dropout: Share of a sublayer's outputs that training drops.
        width: Features of the tokens.
        numbers: One for each sublayer; they tell the net's dropouts apart.
    """

    def __init__(
        self, norm_first: bool, dropout: float, width: int, numbers: Sequence[int]
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.drops = dropout > 0
        if self.drops:
            self.dropouts = nn.CellList([TokenDropout(width, dropout, n) for n in numbers])

    def add(self, x: Tensor, y: Tensor, norm: nn.Cell, noise: Tensor | None, which: int) -> Tensor:
        """Add the output y of sublayer ``which`` to its input x."""
        if self.drops and noise is not None:
            y = self.dropouts[which](y, noise)
        if self.norm_first:
            return x + y
        return norm(x + y)


class EncoderLayer(_Layer):
    """Self-attention and a feed-forward net.

    Args:
        width: Features of the tokens.
        hidden: Features inside of the feed-forward net.
        heads: Heads of the attention.
        norm_first: See ``_Layer``.
        bias: Whether the attention's Dense layers have biases.
        dropout: See ``_Layer``.
        attention_dropout: See ``Attention``.
        most: Most tokens.
        number: Of the layer, counted over encoder and decoder.
        epsilon: Of the LayerNorms.
        gelu: See ``FeedForward``.
        init: Initial weights; None for Xavier-uniform ones.
        marks: Whether outputs of tokens may be without gradient, as in a last layer that is looked
            at here and there. They count as tokens all the same.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        heads: int,
        norm_first: bool,
        bias: bool,
        dropout: float,
        attention_dropout: float,
        most: int,
        number: int,
        epsilon: float = EPSILON,
        gelu: bool = False,
        init: Initializer | None = None,
        marks: bool = False,
    ) -> None:
        numbers = [_DROPOUTS * number + i for i in range(_DROPOUTS)]
        super().__init__(norm_first, dropout, width, numbers[:2])
        self.marks = marks
        self.norm1 = nn.LayerNorm((width,), epsilon=epsilon)
        self.attention = Attention(
            width, heads, bias, attention_dropout, most, numbers[3], marks, init
        )
        self.norm2 = nn.LayerNorm((width,), epsilon=epsilon)
        self.feed_forward = FeedForward(width, hidden, gelu, init)

    def construct(
        self,
        x: Tensor,
        mask: Tensor,
        real: Tensor,
        noise: Tensor | None,
        split: tuple[int, ...],
    ) -> Tensor:
        """Map [N, S, d] to the same shape; the other arguments are those of ``Attention``."""
        y = self.norm1(x) if self.norm_first else x
        y = self.attention(y, y, mask, real, noise, split, split)
        if self.marks:
            y = mark_tokens(y, real)
        x = self.add(x, y, self.norm1, noise, 0)
        y = self.norm2(x) if self.norm_first else x
        y = self.feed_forward(y, real)
        if self.marks:
            y = mark_tokens(y, real)
        return self.add(x, y, self.norm2, noise, 1)


class DecoderLayer(_Layer):
    """Self-attention, attention to the encoder's output, and a feed-forward net.

    Args:
        width: Features of the tokens.
        hidden: Features inside of the feed-forward net.
        heads: Heads of both attentions.
        norm_first: See ``_Layer``.
        bias: Whether the attentions' Dense layers have biases.
        dropout: See ``_Layer``.
        attention_dropout: See ``Attention``.
        most: Most tokens.
        number: Of the layer, counted over encoder and decoder.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        heads: int,
        norm_first: bool,
        bias: bool,
        dropout: float,
        attention_dropout: float,
        most: int,
        number: int,
    ) -> None:
        numbers = [_DROPOUTS * number + i for i in range(_DROPOUTS)]
        super().__init__(norm_first, dropout, width, numbers[:3])
        self.norm1 = nn.LayerNorm((width,), epsilon=EPSILON)
        self.attention = Attention(
            width, heads, bias, attention_dropout, most, numbers[3], marks=True
        )
        self.norm2 = nn.LayerNorm((width,), epsilon=EPSILON)
        self.cross_attention = Attention(width, heads, bias, attention_dropout, most, numbers[4])
        self.norm3 = nn.LayerNorm((width,), epsilon=EPSILON)
        self.feed_forward = FeedForward(width, hidden)
        self.reshape = ops.Reshape()

    def construct(
        self,
        x: Tensor,
        memory: Tensor,
        mask: Tensor,
        memory_mask: Tensor,
        real: Tensor,
        noise: Tensor | None,
        split: tuple[int, ...],
        memory_split: tuple[int, ...],
    ) -> Tensor:
        """Map [N, T, d] to the same shape, with the encoder's output [N, S, d].

        Args:
            x: The target's tokens.
            memory: The encoder's output.
            mask: Additive, [N, 1, T, T].
            memory_mask: Additive, [N, 1, 1, S].
            real: The target's tokens that are no padding, bool [N, T].
            noise: The target's tokens' numbers for the dropout, int32 [N, T], or None.
            split: (N, T, heads, d_k).
            memory_split: (N, S, heads, d_k).
        """
        y = self.norm1(x) if self.norm_first else x
        y = self.attention(y, y, mask, real, noise, split, split)
        x = self.add(x, y, self.norm1, noise, 0)
        y = self.norm2(x) if self.norm_first else x
        y = self.cross_attention(y, memory, memory_mask, real, noise, split, memory_split)
        return self._feed_forward(self.add(x, y, self.norm2, noise, 1), real, noise)

    def _feed_forward(self, x: Tensor, real: Tensor | None, noise: Tensor | None) -> Tensor:
        y = self.norm3(x) if self.norm_first else x
        return self.add(x, self.feed_forward(y, real), self.norm3, noise, 2)

    def step(
        self,
        x: Tensor,
        past: tuple[Tensor, Tensor],
        memory: tuple[Tensor, Tensor],
        here: Tensor,
        mask: Tensor,
        memory_mask: Tensor,
        shapes: tuple[tuple[int, ...], ...],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map one more token of each of B prefixes per sentence.

        Args:
            x: The tokens [N, B, d], one for each prefix.
            past: Keys and values of the prefixes, [N * B, heads, L, d_k], 0 from this token on.
            memory: Keys and values of the encoder's output, [N, heads, S, d_k].
            here: 1 where the token stands and 0 elsewhere, [L, 1].
            mask: 0 up to this token and -1e9 behind it, [L].
            memory_mask: Additive, [N, 1, 1, S].
            shapes: (N * B, 1, d), (N * B, 1, heads, d_k) and (N, B, heads, d_k).

        Returns:
            The tokens [N, B, d], and ``past`` with this token.
        """
        y = self.norm1(x) if self.norm_first else x
        y = self.reshape(y, shapes[0])
        key, value = self.attention.keys_values(y, shapes[1])
        keys, values = past[0] + key * here, past[1] + value * here
        y = self.attention.attend(y, keys, values, mask, None, None, shapes[1])
        x = self.add(x, self.reshape(y, x.shape), self.norm1, None, 0)
        y = self.norm2(x) if self.norm_first else x
        y = self.cross_attention.attend(y, memory[0], memory[1], memory_mask, None, None, shapes[2])
        return self._feed_forward(self.add(x, y, self.norm2, None, 1), None, None), keys, values
