"""The loss of token sequences with padding: a mean over real tokens, on all ranks together."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindspore_thor.errors import UserError, quoted
from mindspore_thor.graph.counting import counting
from mindspore_thor.linalg.log_softmax import log_softmax
from mindspore_thor.linalg.sums import SUM, SUM_KEPT
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
        self.weighted = WeightedCrossEntropy(self.smoothing)
        self.all_reduce = ops.AllReduce() if self.ranks > 1 else nn.Identity()

    def construct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits [N, T, V], targets int32 [N, T] -> float32 scalar; 0 where all are ignored."""
        scores = ops.cast(logits, ms.float32).reshape((-1, logits.shape[-1]))
        flat = targets.reshape((-1, 1))
        counted = ops.cast(flat != self.ignore_index, ms.float32)
        count = SUM(counted.reshape((1, -1)), 1)
        if self.ranks > 1:
            count = self.all_reduce(count) * (1.0 / self.ranks)
        weights = counted / ops.maximum(count, 1.0 / self.ranks)
        # What is ignored need be no class.
        own = flat * ops.cast(counted, flat.dtype)
        return self.weighted(scores, own, ops.stop_gradient(weights))


class WeightedCrossEntropy(nn.Cell):
    """The weighted sum of the rows' cross entropies, with its gradient in closed form.

    The gradient of a row is w (softmax - q), with q the smoothed target: three passes over the
    scores. What MindSpore derives from a log-softmax and a gather takes over twice as long on CPU.

    Args:
        smoothing: eps: q is eps / V for every class, and 1 - eps more for the target.
    """

    def __init__(self, smoothing: float) -> None:
        super().__init__(auto_prefix=False)
        self.smoothing = smoothing

    def construct(self, scores: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Scores float32 [n, V], targets int32 [n, 1], weights float32 [n, 1] -> scalar."""
        logs = log_softmax(scores)
        loss = ops.gather_elements(logs, 1, targets) * (self.smoothing - 1.0)
        if self.smoothing > 0:
            loss = loss - SUM_KEPT(logs, 1) * (self.smoothing / scores.shape[1])
        return SUM((loss * weights).reshape((1, -1)), 1).reshape(())

    def bprop(
        self, scores: Tensor, targets: Tensor, weights: Tensor, out: Tensor, dout: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of the scores; targets and weights have none."""
        weights = weights * dout
        spread = (ops.softmax(scores, -1) - self.smoothing / scores.shape[1]) * weights
        rows = counting(0, scores.shape[0]).reshape((-1, 1))
        places = ops.concat((ops.cast(rows, targets.dtype), targets), 1)
        own = weights.reshape(-1) * (self.smoothing - 1.0)
        gradient = ops.tensor_scatter_add(spread, places, own)
        return gradient, ops.zeros_like(targets), ops.zeros_like(weights)
