"""A translation data set as the training loop sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import mindspore.dataset as ds
import numpy as np
from mindspore import Tensor

from mindspore_thor.data.order import check_position
from mindspore_thor.data.pipeline import EpochSampler
from mindspore_thor.data.text.lines import Side
from mindspore_thor.data.text.order import BucketOrder
from mindspore_thor.data.text.tokens import Tokens
from mindspore_thor.data.text.vocabulary import BOS, EOS, PAD, Vocabulary

COLUMNS = ["source", "target"]


class Dropped(NamedTuple):
    """Pairs that training leaves out, and those that evaluation cuts.

    Attributes:
        blank: Pairs with a side without text.
        too_long: Pairs that are longer than the last bucket.
        incomplete: Pairs per epoch that fill no global batch, others in each epoch.
        clipped: Pairs of an evaluation that are cut to the last bucket; all are kept there.
        beyond: Pairs beyond the limit.
    """

    blank: int
    too_long: int
    incomplete: int
    clipped: int
    beyond: int = 0


class EvaluationBatch(NamedTuple):
    """A batch of an evaluation split.

    Attributes:
        source: int32 [N, S].
        target: int32 [N, T + 1].
        used: float32 [N]: 1 for the rows that count, which come first, 0 for repeated ones.
        indices: int64 [n], n <= N: which lines of the split the first n rows are.
    """

    source: Tensor
    target: Tensor
    used: Tensor
    indices: np.ndarray


class TextSource:
    """Batches by number, counted through all epochs, for ``GeneratorDataset`` and the loop.

    Args:
        source: Encoded source side.
        target: Encoded target side.
        order: Which pairs form which batch.
        buckets: Lengths of the buckets.
    """

    def __init__(
        self, source: Tokens, target: Tokens, order: BucketOrder, buckets: tuple[int, ...]
    ) -> None:
        self._source = source
        self._target = target
        self.order = order
        self._buckets = buckets

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return len(self.order)

    def noise(self, number: int) -> np.ndarray:
        """Return a number for each pair of a batch, int32 [N], others in every epoch."""
        return self.order.noise(*divmod(int(number), len(self.order)))

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return source int32 [N, S] and target int32 [N, T + 1] of a batch."""
        bucket, rows, _ = self.order.batch(*divmod(int(number), len(self.order)))
        length = self._buckets[bucket]
        source = np.full((len(rows), length), PAD, np.int32)
        target = np.full((len(rows), length + 1), PAD, np.int32)
        target[:, 0] = BOS
        for row, index in enumerate(rows):
            _fill(source[row], self._source[index])
            _fill(target[row, 1:], self._target[index])
        return source, target


def _fill(row: np.ndarray, pieces: np.ndarray) -> None:
    """Write the pieces and the end sign into a row of padding, cut where they are too long."""
    used = min(len(pieces), len(row) - 1)
    row[:used] = pieces[:used]
    row[used] = EOS


class TextData:
    """Batches of sentence pairs of one split, exactly repeatable.

    A batch is source int32 [N, S], tokens and end sign, and target int32 [N, T + 1], start sign,
    tokens and end sign, both padded with 0 behind the end; S = T is the batch's bucket. The decoder
    reads ``target[:, :-1]``; its labels are ``target[:, 1:]``.

    Attributes:
        name: Name of the data set.
        split: ``train``, ``valid`` or ``test``.
        languages: Source and target language.
        size: Pairs of this rank that count in one epoch.
        batch_size: Pairs per batch and rank.
        steps_per_epoch: Batches per epoch, the same on all ranks; also ``len(data)``.
        buckets: The lengths of the buckets, ascending.
        batches_of: Batches of each bucket in one epoch.
        vocabulary: The joint vocabulary.
        dropped: What is left out or cut.
    """

    def __init__(
        self,
        name: str,
        split: str,
        languages: tuple[str, str],
        sides: tuple[Side, Side],
        vocabulary: Vocabulary,
        batch_size: int,
        buckets: tuple[int, ...],
        source: TextSource,
        dropped: Dropped,
    ) -> None:
        """Store the parts; ``create_text`` is the way to make one."""
        self.name = name
        self.split = split
        self.languages = languages
        self.vocabulary = vocabulary
        self.batch_size = batch_size
        self.buckets = buckets
        self.dropped = dropped
        self.steps_per_epoch = len(source)
        self.batches_of = source.order.batches
        self.size = source.order.used()
        self._sides = sides
        self._source = source
        self._lines: dict[int, list[str]] = {}

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return self.steps_per_epoch

    def epoch(self, index: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Iterate over one epoch.

        The batches depend only on the arguments of ``create_text`` and on ``index``; nothing that
        is skipped is read. Every epoch has the same number of pairs in batch b, and the same number
        of batches of each bucket.

        Args:
            index: Number of the epoch, from 0.
            start: First batch, 0 <= start <= steps_per_epoch.

        Returns:
            An iterator over source, target and noise int32 [N], a number for each pair and epoch
            that dropout may depend on. In an evaluation split the rows behind the last
            pair repeat it: ``evaluation`` says which.

        Raises:
            ValueError: ``index`` or ``start`` is out of range.
        """
        check_position(index, start, self.steps_per_epoch)
        first = index * self.steps_per_epoch
        return self._batches(range(first + start, first + self.steps_per_epoch))

    def evaluation(self, start: int = 0) -> Iterator[EvaluationBatch]:
        """Iterate over an evaluation split: over all ranks every line once.

        Every rank has the same number of batches; the last one of a rank may have no used row.

        Args:
            start: First batch.

        Raises:
            ValueError: This is the training split, or ``start`` is out of range.
        """
        self._evaluated()
        for step, (source, target, _) in enumerate(self.epoch(0, start), start):
            _, rows, used = self._source.order.batch(0, step)
            counts = (np.arange(len(rows)) < used).astype(np.float32)
            yield EvaluationBatch(source, target, Tensor(counts), rows[:used].copy())

    @property
    def references(self) -> list[str]:
        """All target lines of an evaluation split, in the order of the file."""
        self._evaluated()
        return self._text(1)

    @property
    def sources(self) -> list[str]:
        """All source lines of an evaluation split, in the order of the file."""
        self._evaluated()
        return self._text(0)

    def dataset(self, index: int = 0) -> ds.Dataset:
        """Return a MindSpore dataset for ``ms.Model``; pass after pass it runs through the epochs.

        Args:
            index: The epoch of the first pass; the next passes are index + 1, index + 2 ...

        Returns:
            A dataset with the columns ``source`` and ``target``, already batched. The shapes are
            the buckets': with ``dataset_sink_mode=False``.
        """
        sampler = EpochSampler(index, self.steps_per_epoch)
        return ds.GeneratorDataset(
            self._source, COLUMNS, sampler=sampler, python_multiprocessing=False
        )

    def _batches(self, numbers: range) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for number in numbers:
            source, target = self._source[number]
            yield Tensor(source), Tensor(target), Tensor(self._source.noise(number))

    def _evaluated(self) -> None:
        if self.split == "train":
            raise ValueError("the training split is not evaluated: open 'valid' or 'test'")

    def _text(self, side: int) -> list[str]:
        if side not in self._lines:
            self._lines[side] = [
                self.vocabulary.surface(item) for item in self._sides[side].lines()
            ]
        return self._lines[side]
