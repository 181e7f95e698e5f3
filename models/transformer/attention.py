"""Multi-head attention of four Dense layers (Vaswani et al. 2017, section 3.2)."""

from __future__ import annotations

from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Initializer, XavierUniform

from mindspore_thor import mark_tokens

from .dropout import WeightDropout


def dense(before: int, after: int, bias: bool = True, init: Initializer | None = None) -> nn.Dense:
    """Return a Dense layer with Xavier-uniform or given weights and a bias of zeros, or none."""
    weights = init if init is not None else XavierUniform()
    return nn.Dense(before, after, weight_init=weights, bias_init="zeros", has_bias=bias)


class Attention(nn.Cell):
    """softmax(Q K^T / sqrt(d_k) + mask) V for each head, between four Dense layers.

    Args:
        width: Features d of inputs and outputs; ``heads`` divides it.
        heads: Number of heads.
        bias: Whether the Dense layers have biases.
        dropout: Share of the attention weights that training drops.
        most: Most keys.
        number: Tells the net's dropouts apart.
        marks: Whether queries may be without gradient: where a token sees nothing but itself, or
            nothing looks at its output.
        init: Initial weights; None for Xavier-uniform ones.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        bias: bool,
        dropout: float,
        most: int,
        number: int,
        marks: bool = False,
        init: Initializer | None = None,
    ) -> None:
        super().__init__()
        self.query = dense(width, width, bias, init)
        self.key = dense(width, width, bias, init)
        self.value = dense(width, width, bias, init)
        self.out = dense(width, width, bias, init)
        self.scale = (width // heads) ** -0.5
        self.marks = marks
        self.drops = dropout > 0
        if self.drops:
            self.dropout = WeightDropout(heads, most, dropout, number)
        self.softmax = ops.Softmax(axis=-1)
        self.scores = ops.BatchMatMul(transpose_b=True)
        self.mixed = ops.BatchMatMul()
        self.reshape = ops.Reshape()
        self.transpose = ops.Transpose()
        self.swap = (0, 2, 1, 3)

    def keys_values(self, memory: Tensor, split: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Map what is attended to, [N, S, d], to keys and values [N, heads, S, d_k].

        Args:
            memory: The tokens.
            split: (N, S, heads, d_k). Given, because shape arithmetic in graphs costs compile time.
        """
        keys = self.transpose(self.reshape(self.key(memory), split), self.swap)
        values = self.transpose(self.reshape(self.value(memory), split), self.swap)
        return keys, values

    def attend(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor,
        real: Tensor | None,
        noise: Tensor | None,
        split: tuple[int, ...],
    ) -> Tensor:
        """Attend to keys and values [N, heads, S, d_k] from x [N, T, d].

        Args:
            x: Where the queries come from.
            keys: See ``keys_values``.
            values: See ``keys_values``.
            mask: 0 where T may see S and -1e9 elsewhere, broadcast to [N, heads, T, S].
            real: The tokens of x that are no padding, bool [N, T]; None where nothing is
                differentiated.
            noise: The tokens' numbers for the dropout, int32 [N, T]; None where nothing is dropped.
            split: (N, T, heads, d_k).
        """
        queries = self.query(x)
        if self.marks and real is not None:
            queries = mark_tokens(queries, real)
        queries = self.transpose(self.reshape(queries, split), self.swap)
        weights = self.softmax(self.scores(queries, keys) * self.scale + mask)
        if self.drops and noise is not None:
            weights = self.dropout(weights, noise)
        mixed = self.transpose(self.mixed(weights, values), self.swap)
        return self.out(self.reshape(mixed, x.shape))

    def construct(
        self,
        x: Tensor,
        memory: Tensor,
        mask: Tensor,
        real: Tensor,
        noise: Tensor | None,
        split: tuple[int, ...],
        memory_split: tuple[int, ...],
    ) -> Tensor:
        """Attend to memory [N, S, d] from x [N, T, d]; see ``keys_values`` and ``attend``."""
        keys, values = self.keys_values(memory, memory_split)
        return self.attend(x, keys, values, mask, real, noise, split)
