"""How well a net tells the next token: loss per token, and bits per character."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from mindspore_thor.data.language.pipeline import LanguageData
from mindspore_thor.data.language.text import PAD
from mindspore_thor.linalg.log_softmax import token_losses
from mindspore_thor.parallel.agreement import sum_over_ranks
from mindspore_thor.run.evaluate import Measure, evaluating

BITS = "bits_per_character"
VALID_LOSS = "valid_loss"


class NextTokenLosses(Measure):
    """Sums the losses of tokens.

    Args:
        net: ids [N, T] -> logits [N, T, V].
    """

    def construct(self, ids: Tensor, labels: Tensor, used: Tensor) -> Tensor:
        """Return the sum over the used rows' tokens of -log p, and their number, float32 [2]."""
        real = ops.cast(labels != PAD, mstype.float32) * used.reshape((-1, 1))
        lost = token_losses(self.net(ids), labels, real)
        return ops.stack((lost.sum(), real.sum()))


class LanguageEvaluation:
    """Measures a net on blocks of text; a :class:`~mindspore_thor.run.task.Evaluation`.

    Args:
        net: The net.
        data: The split.
    """

    def __init__(self, net: nn.Cell, data: LanguageData) -> None:
        self.files: dict[str, str] = {}
        self._net, self._data = net, data
        self._losses = NextTokenLosses(net)
        self.graphs = (self._losses,)

    def __call__(self, should_stop: Callable[[], bool] | None = None) -> dict[str, float] | None:
        """Run through the split once; several ranks do their shares and add them up.

        The net is put back into the mode, training or not, that it was in.

        Args:
            should_stop: Asked after every batch whether to give up.

        Returns:
            The mean loss of a token in nats, without label smoothing, and the same in bits; None
            when stopped. A token is a character.
        """
        sums = np.zeros(2)
        with evaluating(self._net, self._losses):
            for batch, used in self._data.evaluation():
                sums += self._losses(batch.ids, batch.labels, used).asnumpy()
                if should_stop is not None and should_stop():
                    return None
        lost, count = sum_over_ranks(sums)
        loss = float(lost / max(count, 1.0))
        return {BITS: loss / math.log(2.0), VALID_LOSS: loss}
