"""Pairs of sentences from documents, each a pure function of (seed, pass, number)."""

from __future__ import annotations

import numpy as np

from mindspore_thor.data.pretraining.masking import Sample, Words, made_sample
from mindspore_thor.data.text.tokens import Tokens
from mindspore_thor.errors import UserError

# A first word of its own beside those in mindspore_thor.data.order and data.text.order.
_SAMPLE_STREAM = 5
_SPECIAL = 3  # [CLS] and two [SEP]


class DocumentSamples:
    """Samples from a text whose documents are separated by blank lines.

    A document is cut into runs of whole sentences, each just long enough for a sample; a run is one
    sample in each pass over the data. Half of the samples have the run's second half as second
    sentence, half a piece of another document. Where it is cut, what comes second, what is cut off
    and what is masked is drawn anew in each pass.

    Args:
        tokens: The pieces of all lines.
        length: Tokens S of a sample.
        predictions: Most masked words P.
        share: Share of masked words.
        short_share: Share of the samples that are made shorter, by any length.
        words: Ids that have a meaning.
        seed: Of all draws, >= 0.
        title: The text's name, for messages.

    Raises:
        UserError: There are less than two documents.
    """

    def __init__(
        self,
        tokens: Tokens,
        length: int,
        predictions: int,
        share: float,
        short_share: float,
        words: Words,
        seed: int,
        title: str,
    ) -> None:
        self.length, self.predictions = length, predictions
        self._tokens, self._words, self._seed = tokens, words, seed
        self._share, self._short_share = share, short_share
        self._lines = np.flatnonzero(tokens.lengths)
        document = np.cumsum(tokens.lengths == 0)[self._lines]
        begins = np.flatnonzero(np.diff(document, prepend=-1))
        self.documents = len(begins)
        if self.documents < 2:
            raise UserError(
                f"{title} has {self.documents} documents, the next sentence needs at least 2: "
                "separate documents by blank lines"
            )
        # Sentences of document i: _bounds[i] .. _bounds[i + 1].
        self._bounds = np.append(begins, len(self._lines))
        self._runs = _runs(tokens.lengths[self._lines], self._bounds, length - _SPECIAL)

    def __len__(self) -> int:
        """Return the number of samples of one pass."""
        return len(self._runs)

    def sample(self, turn: int, index: int) -> Sample:
        """Return one sample.

        Args:
            turn: Which pass over the data, from 0.
            index: Number of the sample.
        """
        generator = np.random.default_rng((_SAMPLE_STREAM, self._seed, turn, index))
        document, begin, end = self._runs[index]
        room = self.length - _SPECIAL
        if generator.random() < self._short_share:
            room = int(generator.integers(2, room + 1))
        cut = begin + 1 if end - begin == 1 else int(generator.integers(begin + 1, end))
        first = self._joined(begin, cut)
        other = bool(cut == end or generator.random() < 0.5)
        second = self._elsewhere(document, room - len(first), generator) if other else None
        if second is None:
            second = self._joined(cut, end)
        first, second = _shortened(first, second, room, generator)
        return made_sample(
            first,
            second,
            other,
            self.length,
            self.predictions,
            self._share,
            self._words,
            generator,
        )

    def _joined(self, begin: int, end: int) -> np.ndarray:
        return np.concatenate([self._tokens[line] for line in self._lines[begin:end]])

    def _elsewhere(self, document: int, room: int, generator: np.random.Generator) -> np.ndarray:
        """Sentences of another document, from any of them on, until they fill the room."""
        chosen = int(generator.integers(self.documents - 1))
        chosen += chosen >= document
        begin, end = self._bounds[chosen], self._bounds[chosen + 1]
        at = int(generator.integers(begin, end))
        parts = [self._tokens[self._lines[at]]]
        total = len(parts[0])
        while total < room and at + 1 < end:
            at += 1
            parts.append(self._tokens[self._lines[at]])
            total += len(parts[-1])
        return np.concatenate(parts)


def _runs(lengths: np.ndarray, bounds: np.ndarray, room: int) -> np.ndarray:
    """Document, first sentence and end of every run, int64 [runs, 3]."""
    runs = []
    for document, (begin, end) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist())):
        first, total = begin, 0
        for at, length in enumerate(lengths[begin:end].tolist(), begin):
            total += length
            if total >= room or at + 1 == end:
                runs.append((document, first, at + 1))
                first, total = at + 1, 0
    return np.array(runs, np.int64).reshape(-1, 3)


def _shortened(
    first: np.ndarray, second: np.ndarray, room: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Take tokens from the longer one, at its front or its back, until both fit."""
    excess = len(first) + len(second) - room
    if excess <= 0:
        return first, second
    bounds = [[0, len(first)], [0, len(second)]]
    for front in (generator.random(excess) < 0.5).tolist():
        (one, one_end), (two, two_end) = bounds
        longer = bounds[0] if one_end - one > two_end - two else bounds[1]
        if front:
            longer[0] += 1
        else:
            longer[1] -= 1
    return first[slice(*bounds[0])], second[slice(*bounds[1])]
