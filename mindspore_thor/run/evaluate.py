"""The metrics of a task over a whole data set, in one compiled graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MappingProxyType

import numpy as np
from mindspore import Tensor, nn
from mindspore import dtype as mstype

from mindspore_thor.cache.compile_cache import CompileCache, StoredGraph
from mindspore_thor.data import Data
from mindspore_thor.errors import UserError
from mindspore_thor.parallel.agreement import sum_over_ranks
from mindspore_thor.run.task import Evaluation


@contextmanager
def evaluating(net: nn.Cell, measure: nn.Cell) -> Iterator[None]:
    """While this holds, a net is evaluated; then it is back in the mode that it was in.

    Args:
        net: The net.
        measure: What measures it, with the net in it.

    Raises:
        UserError: If the memory is not enough.
    """
    training = bool(net.training)
    measure.set_train(False)
    try:
        yield
    except MemoryError:
        raise UserError(
            "the memory is not enough for an evaluation batch; lower data.eval_batch_size"
        ) from None
    finally:
        net.set_train(training)


class Measure(StoredGraph):
    """Sums over a batch what an evaluation wants of a net; its graph may be kept.

    Args:
        net: The net.
    """

    title = "the evaluation"

    def __init__(self, net: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.net = net


def keep_graphs(
    evaluation: Evaluation, cache: CompileCache | None, step: nn.Cell | None = None
) -> None:
    """Let an evaluation's graphs be kept between runs.

    Args:
        evaluation: Before its first use.
        cache: Where; None for nowhere.
        step: The step that trains the net, whose hooks are in it.
    """
    for graph in evaluation.graphs:
        graph.store = cache
        if step is not None:
            graph.reached = MappingProxyType(step.parameters_dict())


class Evaluator:
    """Measures a net on images; an :class:`~mindspore_thor.run.task.Evaluation`.

    The last, partial batch is filled up to the common size and the filling is not counted, so that
    one graph serves all batches.

    Args:
        measure: (images float32 [N, C, H, W], labels int32 [N], used float32 [N]) -> the sum of
            each metric over the used samples.
        net: The net in it.
        data: The evaluation split.
        metrics: Their names.
    """

    def __init__(
        self, measure: Measure, net: nn.Cell, data: Data, metrics: tuple[str, ...]
    ) -> None:
        self.files: dict[str, str] = {}
        self._net = net
        self._data = data
        self._metrics = metrics
        self._measure = measure
        self.graphs = (measure,)

    def __call__(self, should_stop: Callable[[], bool] | None = None) -> dict[str, float] | None:
        """Run through the data set once; several ranks count their shares and add them up.

        The net is put back into the mode, training or not, that it was in.

        Args:
            should_stop: Asked after every batch whether to give up.

        Returns:
            Mean of each metric of the task over the samples, or None when stopped. Accuracies are
            shares in [0, 1]; with fewer than five classes every finite prediction is a top-5 hit.

        Raises:
            UserError: If a sample cannot be read, or the memory is not enough.
        """
        sums = np.zeros(len(self._metrics), dtype=np.float64)
        total = full = 0
        with evaluating(self._net, self._measure):
            for images, labels in self._data.epoch(0):
                size = labels.shape[0]
                # Of the first batch: a set smaller than the batch size needs no filling.
                full = full or size
                sums += self._sums(images, labels, size, full)
                total += size
                if should_stop is not None and should_stop():
                    return None
        *sums, total = sum_over_ranks(np.array([*sums, total])).tolist()
        return {name: float(value / total) for name, value in zip(self._metrics, sums)}

    def _sums(self, images: Tensor, labels: Tensor, size: int, full: int) -> np.ndarray:
        used = Tensor(np.arange(full) < size, mstype.float32)
        if size < full:
            filler = np.zeros(full - size, dtype=np.int64)
            rows = np.concatenate([np.arange(size), filler])
            images, labels = Tensor(images.asnumpy()[rows]), Tensor(labels.asnumpy()[rows])
        return self._measure(images, labels, used).asnumpy()
