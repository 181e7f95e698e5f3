"""Decoding token by token: the two graphs that a search runs."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, ops
from mindspore import dtype as mstype

from mindspore_thor.cache.compile_cache import StoredGraph
from mindspore_thor.linalg.log_softmax import log_softmax

from .transformer import BOS, EOS, HIDDEN, PAD, Transformer, split_shape


class Memories(StoredGraph):
    """Encodes sentences, as far as that is the same for all of their targets' tokens.

    Args:
        net: The Transformer; its parameters are shared.
    """

    title = "the encoding for a search"

    def __init__(self, net: Transformer) -> None:
        super().__init__(auto_prefix=False)
        self.net = net

    def construct(self, source: Tensor) -> tuple[Tensor, ...]:
        """Map ids int32 [N, S] to the mask [N, 1, 1, S], and each decoder layer's keys and values.

        The latter are [N, heads, S, d_k].
        """
        memory = self.net.encode(source)
        split = split_shape(source.shape, self.net.heads, self.net.width)
        result: tuple[Tensor, ...] = (self.net.hidden_padding(source),)
        for layer in self.net.decoder:
            result = result + layer.cross_attention.keys_values(memory, split)
        return result


@ops.constexpr
def _shapes(
    ids: tuple[int, ...], heads: int, width: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The shapes that ``DecoderLayer.step`` wants."""
    prefixes = ids[0] * ids[1]
    each = (heads, width // heads)
    return (prefixes, 1, width), (prefixes, 1, *each), (*ids, *each)


class Step(StoredGraph):
    """One more token of B prefixes for each of N sentences.

    Keys and values of the tokens before are kept: [N * B, heads, length, d_k] for each layer, with
    zeros where no token is yet. They go in and out as tensors, so the cell has no state.

    Args:
        net: The Transformer; its parameters are shared.
        beam: Prefixes B for each sentence.
        length: Most tokens of a prefix, its beginning included.
    """

    title = "a search's next token"

    def __init__(self, net: Transformer, beam: int, length: int) -> None:
        super().__init__(auto_prefix=False)
        self.net = net
        self.moves = beam > 1
        self.places = Tensor(np.arange(length, dtype=np.int32))
        never = np.zeros(net.vocab_size, np.float32)
        never[[PAD, BOS]] = -np.inf
        self.never = Tensor(never)
        self.end = Tensor(np.array(EOS, np.int32))
        self.count = min(2 * beam, net.vocab_size - 2)
        self.topk = ops.TopK()
        self.gather = ops.Gather()
        self.reshape = ops.Reshape()

    def construct(
        self, ids: Tensor, parents: Tensor, place: Tensor, mask: Tensor, *kept: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Extend every prefix by one token.

        Args:
            ids: The tokens, int32 [N, B].
            parents: Which of the prefixes before each one extends, int32 [N * B], counted over all
                sentences.
            place: Their position, int32 [1]: 0 for the targets' beginning.
            mask: Of the sources' padding, [N, 1, 1, S].
            *kept: For each decoder layer the keys and values of the source; then for each those of
                the prefixes.

        Returns:
            log p(token | prefix, source) of the K = min(2 B, V - 2) most likely tokens,
            float32 [N, B, K], and their ids, int32 [N, B, K], in falling order; the same of the
            sentence's end, [N, B]; the prefixes' keys and values, with this token.
        """
        net = self.net
        shapes = _shapes(ids.shape, net.heads, net.width)
        here = ops.cast(ops.equal(self.places, place), mstype.float32)
        here = self.reshape(here, (-1, 1))
        hidden = ops.cast(ops.greater(self.places, place), mstype.float32) * HIDDEN
        x = net.embed_target(ids) + self.gather(net.positions, place, 0)
        layers = len(net.decoder)
        past: tuple[Tensor, ...] = ()
        for i, layer in enumerate(net.decoder):
            keys, values = kept[2 * (layers + i)], kept[2 * (layers + i) + 1]
            if self.moves:
                keys, values = self.gather(keys, parents, 0), self.gather(values, parents, 0)
            x, keys, values = layer.step(
                x, (keys, values), (kept[2 * i], kept[2 * i + 1]), here, hidden, mask, shapes
            )
            past = past + (keys, values)  # noqa: RUF005 (the graph parser knows no unpacking)
        logs = log_softmax(net.generate(x)) + self.never
        best, tokens = self.topk(logs, self.count)
        return best, tokens, self.gather(logs, self.end, 2), past
