"""How well a net translates: loss per token, and BLEU and chrF of what it finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from mindspore_thor.data.text.pipeline import TextData
from mindspore_thor.data.text.scores import translation_scores
from mindspore_thor.data.text.vocabulary import PAD
from mindspore_thor.errors import UserError
from mindspore_thor.linalg.log_softmax import token_losses
from mindspore_thor.parallel.agreement import sum_over_ranks
from mindspore_thor.run.evaluate import Measure, evaluating
from mindspore_thor.step.inputs import CaptureInputs

BLEU = "bleu"
CHRF = "chrf"
VALID_LOSS = "valid_loss"


def padding_to(lengths: Sequence[int]) -> CaptureInputs:
    """Return a function that pads a step's ids further, and leaves all else as it is.

    Args:
        lengths: Ascending; ids [N, S] get the first one that is not below S, with zeros behind.
    """

    def padded(ids: Tensor) -> Tensor:
        if ids.ndim != 2:
            return ids
        missing = min((n for n in lengths if n >= ids.shape[1]), default=0) - ids.shape[1]
        if missing <= 0:
            return ids
        return Tensor(np.pad(ids.asnumpy(), ((0, 0), (0, missing)), constant_values=PAD))

    return lambda inputs: tuple(map(padded, inputs))


class TokenLosses(Measure):
    """Sums the losses of real tokens.

    Args:
        net: (source [N, S], target [N, T]) -> logits [N, T, V].
    """

    def construct(self, source: Tensor, target: Tensor, labels: Tensor, used: Tensor) -> Tensor:
        """Return the sum over the used rows' tokens of -log p, and their number, float32 [2]."""
        real = ops.cast(labels != PAD, mstype.float32) * used.reshape((-1, 1))
        lost = token_losses(self.net(source, target), labels, real)
        return ops.stack((lost.sum(), real.sum()))


class TranslationEvaluation:
    """Measures a net on sentence pairs; a :class:`~mindspore_thor.run.task.Evaluation`.

    Args:
        net: The net.
        data: The split.
        file: Name of the file for the translations, one a line, in the order of the split.
        search_length: Most tokens of a translation.
        beam: Beams of the search; 1 for greedy search.
        length_penalty: Exponent of the length penalty.
    """

    def __init__(
        self,
        net: nn.Cell,
        data: TextData,
        file: str,
        *,
        search_length: int,
        beam: int = 1,
        length_penalty: float = 0.0,
    ) -> None:
        self.files: dict[str, str] = {}
        self.signature = ""
        self._net = net
        self._data = data
        self._file = file
        self._length = search_length
        self._losses = TokenLosses(net)
        try:
            self._translate = net.translator(beam, length_penalty, search_length)
        except AttributeError:
            raise UserError(
                f"{type(net).__name__} has no translator(beam, length_penalty, max_length): task "
                "'translate' needs it for BLEU"
            ) from None
        self.graphs = (self._losses, *getattr(self._translate, "graphs", ()))

    def __call__(self, should_stop: Callable[[], bool] | None = None) -> dict[str, float] | None:
        """Translate the split once; several ranks do their shares and put them together.

        The net is put back into the mode, training or not, that it was in.

        Args:
            should_stop: Asked after every batch whether to give up.

        Returns:
            BLEU and chrF, 0 to 100, and the mean loss of a real token, without label smoothing;
            None when stopped.
        """
        references = self._data.references
        found = np.zeros((len(references), self._length), np.int64)
        sums = np.zeros(2)
        with evaluating(self._net, self._losses):
            for source, target, used, indices in self._data.evaluation():
                ids = target.asnumpy()
                losses = self._losses(source, Tensor(ids[:, :-1]), Tensor(ids[:, 1:]), used)
                sums += losses.asnumpy()
                rows = self._translate(source.asnumpy()[: len(indices)])
                for index, row in zip(indices, rows):
                    found[index, : len(row)] = row
                if should_stop is not None and should_stop():
                    return None
        sums = sum_over_ranks(sums)
        found = sum_over_ranks(found).astype(np.int64)
        vocabulary = self._data.vocabulary
        hypotheses = vocabulary.decode(row[row != PAD].tolist() for row in found)
        scores = translation_scores(hypotheses, references, tokenized=vocabulary.tokenized)
        self.signature = scores.bleu_signature
        self.files = {self._file: "".join(f"{line}\n" for line in hypotheses)}
        return {
            BLEU: scores.bleu,
            CHRF: scores.chrf,
            VALID_LOSS: float(sums[0] / sums[1]),
        }
