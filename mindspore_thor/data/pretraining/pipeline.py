"""Pre-training data as the training loop sees them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from mindspore import Tensor

from mindspore_thor.data.order import check_position
from mindspore_thor.data.pretraining.masking import Sample
from mindspore_thor.data.text.order import BucketOrder
from mindspore_thor.data.text.vocabulary import Vocabulary
from mindspore_thor.errors import UserError


class Samples(Protocol):
    """Samples by number.

    Attributes:
        length: Tokens S of a sample.
        predictions: Most masked words P of a sample.
    """

    length: int
    predictions: int

    def __len__(self) -> int:
        """Return how many there are in one pass."""

    def sample(self, turn: int, index: int) -> Sample:
        """Return one, as it is in a pass over the data."""


class PretrainingBatch(NamedTuple):
    """A batch of N samples, as :class:`~mindspore_thor.data.pretraining.masking.Sample` has them.

    Attributes:
        ids: int32 [N, S].
        segments: int32 [N, S].
        mask: int32 [N, S].
        positions: int32 [N, P].
        noise: int32 [N]: a number for each sample and pass that dropout may depend on.
        labels: int32 [N, P + 1].
    """

    ids: Tensor
    segments: Tensor
    mask: Tensor
    positions: Tensor
    noise: Tensor
    labels: Tensor


class PretrainingData:
    """Batches of one split, exactly repeatable.

    Attributes:
        name: Name of the data set.
        batch_size: Samples per batch and rank.
        steps_per_epoch: Batches per epoch, the same on all ranks; also ``len(data)``.
        vocab_size: Ids are smaller.
        vocabulary: The pieces of a text; None where the samples were made elsewhere.
        sequence_length: Tokens S of a sample.
        predictions: Most masked words P of a sample.
        samples: Samples of one pass over the data, on all ranks.
        left_out: Samples of each pass that fill no batch, other ones each time.
    """

    def __init__(
        self,
        name: str,
        samples: Samples,
        vocab_size: int,
        vocabulary: Vocabulary | None,
        train: bool,
        batch_size: int,
        epoch_batches: int | None,
        seed: int,
        rank: int,
        rank_size: int,
    ) -> None:
        """Store the parts; ``create_pretraining`` is the way to make one."""
        self.name, self.batch_size = name, batch_size
        self.vocab_size, self.vocabulary = vocab_size, vocabulary
        self.sequence_length, self.predictions = samples.length, samples.predictions
        self.samples = len(samples)
        self._samples = samples
        self._train = train
        everything = np.zeros(len(samples), np.int16)
        self._order = BucketOrder(everything, 1, batch_size, seed, train, rank, rank_size)
        if not len(self._order):
            ranks = f" in each of {rank_size} processes" if rank_size > 1 else ""
            raise UserError(
                f"batch_size {batch_size}{ranks} is larger than the {len(samples)} samples of "
                f"'{name}': choose a smaller batch_size"
            )
        self.left_out = self._order.left_out
        self.steps_per_epoch = (train and epoch_batches) or len(self._order)

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return self.steps_per_epoch

    def epoch(self, index: int, start: int = 0) -> Iterator[PretrainingBatch]:
        """Iterate over one epoch.

        The batches depend only on the arguments of ``create_pretraining`` and on ``index``; nothing
        that is skipped is read.

        Args:
            index: Number of the epoch, from 0.
            start: First batch, 0 <= start <= steps_per_epoch.

        Raises:
            ValueError: ``index`` or ``start`` is out of range.
        """
        check_position(index, start, self.steps_per_epoch)
        first = index * self.steps_per_epoch
        return self._batches(range(first + start, first + self.steps_per_epoch))

    def evaluation(self) -> Iterator[tuple[PretrainingBatch, Tensor]]:
        """Iterate over an evaluation split: over all ranks every sample once.

        Returns:
            An iterator over batches, and float32 [N]: 1 for rows that count, which come first, 0
            for those that fill the last batch.

        Raises:
            ValueError: This is the training split.
        """
        if self._train:
            raise ValueError("the training split is not evaluated: open the validation split")
        for number, batch in enumerate(self._batches(range(self.steps_per_epoch))):
            used = self._order.batch(0, number)[2]
            yield batch, Tensor((np.arange(self.batch_size) < used).astype(np.float32))

    def _batches(self, numbers: range) -> Iterator[PretrainingBatch]:
        for number in numbers:
            turn, step = divmod(number, len(self._order))
            _, rows, _ = self._order.batch(turn, step)
            drawn = [self._samples.sample(turn, row) for row in rows.tolist()]
            ids, segments, mask, positions, labels = (np.stack(column) for column in zip(*drawn))
            noise = self._order.noise(turn, step)
            columns = (ids, segments, mask, positions, noise, labels)
            yield PretrainingBatch(*[Tensor(column) for column in columns])
