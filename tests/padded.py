"""A tiny token net for padded batches, and the batches; its oracle is oracle/sentences.py."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops
from oracle.bridge import randomise, translate
from oracle.sentences import Sentences

from mindspore_thor import mark_tokens

VOCABULARY, WIDTH = 6, 4
DEAD = 3
"""A token that switches all ReLUs of the first layer off."""

INSIDE = [[1, 2, DEAD, 4, 1], [2, DEAD, 5], [4, 1, 2, 1], [5]]
"""Sentences of ids whose dead tokens have others on both sides."""
AT_THE_ENDS = [[1, 2, DEAD, 4, 1], [2, DEAD], [DEAD, 1, 2, DEAD], [5]]


class TokenNet(nn.Cell):
    """See oracle/sentences.py; ids [N, S], 0 for padding -> logits [N, S, VOCABULARY].

    Args:
        marked: whether the net says which rows of its layers are tokens.
    """

    def __init__(self, marked: bool = True) -> None:
        super().__init__()
        self.marked = marked
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.first = nn.Dense(WIDTH, WIDTH)
        self.second = nn.Dense(WIDTH, WIDTH)
        self.pool = nn.Dense(WIDTH, WIDTH)
        self.head = nn.Dense(WIDTH, VOCABULARY, has_bias=False)

    def construct(self, ids: Tensor) -> Tensor:
        mask = ids != 0
        x = self.embedding(ids)
        if self.marked:
            x = mark_tokens(x, mask)
        s = self.first(x)
        if self.marked:
            s = mark_tokens(s, mask)
        y = self.second(ops.relu(s))
        real = mask.astype(y.dtype).expand_dims(-1)
        mean = (y * real).sum(1) / ops.maximum(real.sum(1), 1.0)
        return self.head(y + self.pool(mean).expand_dims(1))


def token_net(marked: bool = True, seed: int = 9) -> TokenNet:
    """With weights of which DEAD's embedding makes all that the first layer gives negative."""
    net = randomise(TokenNet(marked), seed)
    weight, table = net.first.weight.asnumpy().copy(), net.embedding.embedding_table.asnumpy()
    weight[:, 0] = 0.5 + np.abs(weight[:, 0])
    table = table.copy()
    table[:, 0] = np.abs(table[:, 0])
    table[DEAD] = [-4.0, *[0.0] * (WIDTH - 1)]
    net.first.weight.set_data(Tensor(weight))
    net.embedding.embedding_table.set_data(Tensor(table))
    on = table[1:] @ weight.T + net.first.bias.asnumpy() > 0
    assert not on[DEAD - 1].any() and on.any(1).sum() == VOCABULARY - 2
    assert (table[DEAD] @ weight.T + net.first.bias.asnumpy() < -0.5).all()
    return net


def oracle_of(net: TokenNet) -> Sentences:
    """The same net and weights in float64."""
    cells = (net.embedding, net.first, net.second, net.pool, net.head)
    return Sentences(*[translate(cell) for cell in cells])


def targets_of(sentences: list[list[int]]) -> list[list[int]]:
    """Some target for every token; 0 is none."""
    return [[(2 * t + i) % (VOCABULARY - 1) + 1 for i, t in enumerate(s)] for s in sentences]


def padded(sentences: list[list[int]], length: int, left: bool = False) -> np.ndarray:
    """int32 [N, length], zeros behind (or before) the sentences."""
    out = np.zeros((len(sentences), length), np.int32)
    for row, sentence in zip(out, sentences):
        place = slice(length - len(sentence), None) if left else slice(len(sentence))
        row[place] = sentence
    return out


def errors_of(
    net: nn.Cell, before: dict[str, np.ndarray], after: dict[str, np.ndarray]
) -> dict[str, float]:
    """Error of every weight's change, relative to the largest entry of the oracle's change."""
    found = {}
    for p, (name, new) in zip(net.trainable_params(), after.items()):
        change = new - before[name]
        error = np.abs(p.asnumpy().astype(np.float64) - before[name] - change).max()
        found[p.name] = float(error / np.abs(change).max())
    return found
