"""Top-1 and top-5 accuracy over a whole data set, in one compiled graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from mindspore_thor.data import Data
from mindspore_thor.parallel.agreement import sum_over_ranks

TOP_1 = "top_1_accuracy"
TOP_5 = "top_5_accuracy"


class _CountHits(nn.Cell):
    """Counts the samples whose label is among the first and the first five predictions."""

    def __init__(self, net: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.net = net

    def construct(self, images: Tensor, labels: Tensor, used: Tensor) -> Tensor:
        """Return the two counts, float32 [2].

        The label's rank is the number of classes that come before it; equal logits count in class
        order, as in a stable sort. Logits that are not finite are misses, since comparing with NaN
        would rank every label first.
        """
        logits = ops.cast(self.net(images), mstype.float32)
        classes = ops.arange(0, logits.shape[1]).reshape((1, -1))
        column = labels.reshape((-1, 1))
        own = ops.gather_elements(logits, 1, column)
        before = ops.logical_or(logits > own, ops.logical_and(logits == own, classes < column))
        rank = ops.cast(before, mstype.int32).sum(axis=1)
        finite = ops.cast(ops.isfinite(logits), mstype.float32).min(axis=1) * used
        first = (ops.cast(rank < 1, mstype.float32) * finite).sum()
        five = (ops.cast(rank < 5, mstype.float32) * finite).sum()
        return ops.stack((first, five))


class Evaluator:
    """Measures a net on a data set.

    The last, partial batch is filled up to the common size and the filling is not counted, so that
    one graph serves all batches.

    Args:
        net: The net; images float32 [N, C, H, W] to logits [N, classes].
        data: The evaluation split.
    """

    def __init__(self, net: nn.Cell, data: Data) -> None:
        self._net = net
        self._data = data
        self._count = _CountHits(net)

    def __call__(self, should_stop: Callable[[], bool] | None = None) -> dict[str, float] | None:
        """Run through the data set once; several ranks count their shares and add them up.

        The net is put back into the mode, training or not, that it was in.

        Args:
            should_stop: Asked after every batch whether to give up.

        Returns:
            ``{"top_1_accuracy": ..., "top_5_accuracy": ...}``, shares in [0, 1], or None when
            stopped. With fewer than five classes every finite prediction is a top-5 hit.
        """
        training = bool(self._net.training)
        self._count.set_train(False)
        hits = np.zeros(2, dtype=np.int64)
        total = 0
        try:
            for images, labels in self._data.epoch(0):
                size = labels.shape[0]
                hits += self._hits(images, labels, size).astype(np.int64)
                total += size
                if should_stop is not None and should_stop():
                    return None
        finally:
            self._net.set_train(training)
        first, five, count = sum_over_ranks(np.array([*hits, total])).tolist()
        return {TOP_1: first / count, TOP_5: five / count}

    def _hits(self, images: Tensor, labels: Tensor, size: int) -> np.ndarray:
        full = self._data.batch_size
        used = Tensor(np.arange(full) < size, mstype.float32)
        if size < full:
            filler = np.zeros(full - size, dtype=np.int64)
            rows = np.concatenate([np.arange(size), filler])
            images, labels = Tensor(images.asnumpy()[rows]), Tensor(labels.asnumpy()[rows])
        return self._count(images, labels, used).asnumpy()
