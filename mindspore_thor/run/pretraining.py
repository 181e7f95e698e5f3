"""BERT's loss, and how well a net tells masked words and next sentences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from mindspore_thor.data.pretraining.masking import NOT_ASKED
from mindspore_thor.data.pretraining.pipeline import PretrainingData
from mindspore_thor.linalg.log_softmax import token_losses
from mindspore_thor.parallel.agreement import sum_over_ranks
from mindspore_thor.run.evaluate import Measure, evaluating
from mindspore_thor.step.token_loss import TokenMeanLoss

MASKED = "masked_lm_accuracy"
NEXT = "next_sentence_accuracy"
VALID_LOSS = "valid_loss"


class _Labels(nn.Cell):
    """Labels [N, P + 1] -> those of the masked words [N, P], and of the next sentence [N, 1]."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.part = ops.Slice()

    def construct(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        size, columns = labels.shape
        words = self.part(labels, (0, 0), (size, columns - 1))
        return words, self.part(labels, (0, columns - 1), (size, 1))


class PretrainingLoss(nn.Cell):
    """The mean over the masked words, plus the mean over the pairs; on all ranks together.

    Args:
        label_smoothing: Of the masked words' labels.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__(auto_prefix=False)
        self.labels = _Labels()
        self.of_words = TokenMeanLoss(NOT_ASKED, label_smoothing)
        self.of_pairs = TokenMeanLoss(NOT_ASKED)

    def construct(self, logits: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
        """Logits ([N, P, V], [N, 2]) and labels int32 [N, P + 1] -> float32 scalar."""
        words, pairs = self.labels(labels)
        return self.of_words(logits[0], words) + self.of_pairs(logits[1], pairs)


class PretrainingSums(Measure):
    """Counts what a net tells, and sums its losses.

    Args:
        net: (ids, segments, mask, positions) -> logits ([N, P, V], [N, 2]).
    """

    def __init__(self, net: nn.Cell) -> None:
        super().__init__(net)
        self.labels = _Labels()
        self.largest = ops.Argmax(axis=-1)

    def construct(
        self,
        ids: Tensor,
        segments: Tensor,
        mask: Tensor,
        positions: Tensor,
        labels: Tensor,
        used: Tensor,
    ) -> Tensor:
        """Return (hits, sum of -log p, number) of masked words, then of pairs, float32 [6].

        Only rows that are used count. Logits that are not finite are misses.
        """
        words, pairs = self.net(ids, segments, mask, positions)
        of_words, of_pairs = self.labels(labels)
        column = used.reshape((-1, 1))
        one = self.sums(words, of_words, column)
        return ops.concat((one, self.sums(ops.expand_dims(pairs, 1), of_pairs, column)))

    def sums(self, logits: Tensor, labels: Tensor, used: Tensor) -> Tensor:
        """Logits [N, P, V], labels [N, P] and used [N, 1] -> float32 [3]."""
        logits = ops.cast(logits, mstype.float32).reshape((-1, logits.shape[-1]))
        asked = (ops.cast(labels != NOT_ASKED, mstype.float32) * used).reshape(-1)
        flat = (labels * ops.cast(labels != NOT_ASKED, labels.dtype)).reshape(-1)
        finite = ops.isfinite(logits.sum(1))
        hit = ops.logical_and(self.largest(logits) == flat, finite)
        lost = token_losses(logits, flat, asked)
        hits = ops.cast(hit, mstype.float32) * asked
        return ops.stack((hits.sum(), lost.sum(), asked.sum()))


class PretrainingEvaluation:
    """Measures a net on samples; a :class:`~mindspore_thor.run.task.Evaluation`.

    Args:
        net: The net.
        data: The validation split.
    """

    def __init__(self, net: nn.Cell, data: PretrainingData) -> None:
        self.files: dict[str, str] = {}
        self._net, self._data = net, data
        self._sums = PretrainingSums(net)
        self.graphs = (self._sums,)

    def __call__(self, should_stop: Callable[[], bool] | None = None) -> dict[str, float] | None:
        """Run through the split once; several ranks do their shares and add them up.

        The net is put back into the mode, training or not, that it was in.

        Args:
            should_stop: Asked after every batch whether to give up.

        Returns:
            Shares in [0, 1] of masked words and of pairs that are told, and the loss without label
            smoothing; None when stopped.
        """
        total = np.zeros(6)
        with evaluating(self._net, self._sums):
            for batch, used in self._data.evaluation():
                ids, segments, mask, positions, _, labels = batch
                found = self._sums(ids, segments, mask, positions, labels, used)
                total += found.asnumpy()
                if should_stop is not None and should_stop():
                    return None
        hits, lost, count = sum_over_ranks(total).reshape(2, 3).T
        count = np.maximum(count, 1.0)
        shares = hits / count
        return {
            MASKED: float(shares[0]),
            NEXT: float(shares[1]),
            VALID_LOSS: float((lost / count).sum()),
        }
