"""A token net in float64 that never pads: the rows of all sentences stand behind one another."""

from __future__ import annotations

import numpy as np

from oracle.curvature import sentences
from oracle.layers import Dense, Embedding, Net, Relu

Array = np.ndarray


class Sentences(Net):
    """head(y + pool(mean over the sentence of y)), y = second(relu(first(embedding(ids)))).

    The loss is the mean over all tokens of the cross entropy. Layers that see tokens have
    ``lengths``, for :func:`oracle.curvature.rows`; ``pool`` sees one row a sentence.
    """

    def __init__(
        self, embedding: Embedding, first: Dense, second: Dense, pool: Dense, head: Dense
    ) -> None:
        super().__init__([embedding, first, second, pool, head])
        self.relu = Relu()

    def loss(self, x: list[Array], labels: list[Array]) -> float:
        """Forward and backward over sentences of ids and their targets."""
        embedding, first, second, pool, head = self.layers
        lengths = [len(ids) for ids in x]
        for layer in (embedding, first, second, head):
            layer.lengths = lengths
        y = second.forward(self.relu.forward(first.forward(embedding.forward(np.concatenate(x)))))
        mean = np.stack([rows.mean(0) for rows in sentences(y, lengths)])
        logits = head.forward(y + np.repeat(pool.forward(mean), lengths, 0))
        logits = logits - logits.max(1, keepdims=True)
        p = np.exp(logits)
        p /= p.sum(1, keepdims=True)
        targets = np.concatenate(labels)
        rows = np.arange(len(targets))
        value = -np.log(p[rows, targets]).mean()
        p[rows, targets] -= 1
        dz = head.backward(p / len(targets))
        dpool = np.stack([part.sum(0) for part in sentences(dz, lengths)])
        dmean = pool.backward(dpool) / np.array(lengths)[:, None]
        dy = dz + np.repeat(dmean, lengths, 0)
        embedding.backward(first.backward(self.relu.backward(second.backward(dy))))
        return float(value)
