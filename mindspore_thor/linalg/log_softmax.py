"""Logarithms of probabilities, without MindSpore's own operator for them.

On CPU ``ops.LogSoftmax`` of MindSpore 2.10 reads memory that nobody has written: where that is not
zero by chance, its results are wrong.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

from mindspore_thor.linalg.sums import MAX_KEPT, SUM_KEPT


def log_softmax(scores: Tensor) -> Tensor:
    """X - log sum exp x over the last axis.

    Args:
        scores: float32 [..., V].

    Returns:
        float32 [..., V].
    """
    shifted = scores - ops.stop_gradient(MAX_KEPT(scores, -1))
    return shifted - ops.log(SUM_KEPT(ops.exp(shifted), -1))


def token_losses(logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    """-log p of every label, and 0 where that does not count.

    Args:
        logits: [..., V].
        labels: whole numbers below V, as many as there are rows of logits.
        counted: above 0 where a label counts, of any shape with as many entries. What does not
            count may have any loss, but not one that is no number.

    Returns:
        float32, of the shape of ``counted``.
    """
    scores = ops.cast(logits, ms.float32).reshape((-1, logits.shape[-1]))
    own = ops.gather_elements(log_softmax(scores), 1, labels.reshape((-1, 1)))
    own = own.reshape(counted.shape)
    return ops.where(counted > 0, -own, ops.zeros_like(own))
