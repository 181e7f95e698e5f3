"""The loss of token sequences with padding: a mean over real tokens, on all ranks together."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindspore_thor.errors import UserError, quoted
from mindspore_thor.parallel.communication import world


class TokenMeanLoss(nn.Cell):
    """Cross entropy per token, as a mean over the targets that are not ignored.

    That of one process is ``nn.CrossEntropyLoss`` with the same arguments, on [N T, V]. Several
    ranks, whose batches hold different numbers of tokens, divide by the mean of these numbers: the
    mean of the ranks' losses is then the mean over the tokens of all, and the mean of their
    gradients its gradient. One rank's own loss is no mean over its tokens, then.

    Smoothing gives every class eps / V of the target's probability, and the target the rest.

    Args:
        ignore_index: the target of positions that do not count; may lie outside the classes.
        label_smoothing: eps in [0, 1].

    Raises:
        UserError: for arguments out of range.
    """

    def __init__(self, ignore_index: int = 0, label_smoothing: float = 0.0) -> None:
        super().__init__(auto_prefix=False)
        if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
            raise UserError(f"ignore_index={quoted(ignore_index)}: give a whole number")
        number: Any = label_smoothing
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number <= 1:
            raise UserError(f"label_smoothing={quoted(label_smoothing)}: give a number in [0, 1]")
        self.ignore_index = ignore_index
        self.smoothing = float(label_smoothing)
        self.ranks = world()[1]
        self.all_reduce = ops.AllReduce() if self.ranks > 1 else nn.Identity()

    def construct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits [N, T, V], targets int32 [N, T] -> float32 scalar; 0 where all are ignored."""
        classes = logits.shape[-1]
        scores = ops.log_softmax(ops.cast(logits, ms.float32).reshape((-1, classes)), -1)
        flat = targets.reshape((-1, 1))
        counted = ops.cast(flat != self.ignore_index, ms.float32)
        # What is ignored need be no class.
        own = ops.gather_elements(scores, 1, flat * ops.cast(counted, flat.dtype))
        loss = own * (self.smoothing - 1.0)
        if self.smoothing > 0:
            loss = loss - scores.sum(1, keepdims=True) * (self.smoothing / classes)
        count = counted.reshape((1, -1)).sum(1)
        if self.ranks > 1:
            count = ops.stop_gradient(self.all_reduce(count)) * (1.0 / self.ranks)
        total = (loss * counted).reshape((1, -1)).sum(1)
        return (total / ops.maximum(count, 1.0 / self.ranks)).reshape(())
