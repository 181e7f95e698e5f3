"""Running text as the training loop sees it: blocks of one length, in an exact order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from mindspore import Tensor

from mindspore_thor.data.language.text import UNKNOWN, Alphabet
from mindspore_thor.data.order import check_position, limited
from mindspore_thor.data.text.order import BucketOrder
from mindspore_thor.errors import UserError


class LanguageBatch(NamedTuple):
    """A batch of N blocks.

    Attributes:
        ids: int32 [N, T].
        noise: int32 [N]: a number for each block and epoch that dropout may depend on.
        labels: int32 [N, T]: the token that follows each.
    """

    ids: Tensor
    noise: Tensor
    labels: Tensor


class LanguageData:
    """Batches of one split, exactly repeatable.

    Attributes:
        name: Name of the text.
        alphabet: Its characters.
        block: Tokens T of a block.
        blocks: Blocks of the split that are used, on all ranks.
        batch_size: Blocks per batch and rank.
        steps_per_epoch: Batches per epoch, the same on all ranks; also ``len(data)``.
        left_out: Blocks of each epoch that fill no batch, other ones each time; 0 in evaluation.
        rest: Tokens at the split's end that fill no block.
        unknown: Tokens that the training part does not have.
    """

    def __init__(
        self,
        name: str,
        tokens: np.ndarray,
        alphabet: Alphabet,
        block: int,
        train: bool,
        batch_size: int,
        seed: int,
        rank: int,
        rank_size: int,
        limit: int = 0,
    ) -> None:
        """Store the parts; ``create_language`` is the way to make one."""
        self.name, self.alphabet, self.block = name, alphabet, block
        self.batch_size = batch_size
        self._train = train
        # A block's last label is the first token of the next block.
        whole = max(0, (len(tokens) - 1) // block)
        self.rest = len(tokens) - 1 - whole * block
        self.unknown = int((tokens == UNKNOWN).sum())
        self._tokens = tokens
        used = limited(np.arange(whole), limit)
        self.blocks = len(used)
        buckets = np.full(whole, -1, np.int16)
        buckets[used] = 0
        order = BucketOrder(buckets, 1, batch_size, seed, train, rank, rank_size)
        if not len(order):
            ranks = f" in each of {rank_size} processes" if rank_size > 1 else ""
            raise UserError(
                f"batch_size {batch_size}{ranks} is larger than the {self.blocks} blocks of "
                f"{block} characters in '{name}': choose a smaller batch_size, or "
                f"{'a larger limit' if self.blocks < whole else 'shorter blocks'}"
            )
        self._order = order
        self.left_out = order.left_out
        self.steps_per_epoch = len(order)

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return self.steps_per_epoch

    def epoch(self, index: int, start: int = 0) -> Iterator[LanguageBatch]:
        """Iterate over one epoch.

        The batches depend only on the arguments of ``create_language`` and on ``index``.

        Args:
            index: Number of the epoch, from 0.
            start: First batch, 0 <= start <= steps_per_epoch.

        Raises:
            ValueError: ``index`` or ``start`` is out of range.
        """
        check_position(index, start, self.steps_per_epoch)
        return (self._batch(index, step) for step in range(start, self.steps_per_epoch))

    def evaluation(self) -> Iterator[tuple[LanguageBatch, Tensor]]:
        """Iterate over an evaluation split: over all ranks every block once.

        Returns:
            An iterator over batches, and float32 [N]: 1 for rows that count, which come first, 0
            for those that fill the last batch.

        Raises:
            ValueError: This is the training split.
        """
        if self._train:
            raise ValueError("the training split is not evaluated: open the validation split")
        for step in range(self.steps_per_epoch):
            used = self._order.batch(0, step)[2]
            rows = (np.arange(self.batch_size) < used).astype(np.float32)
            yield self._batch(0, step), Tensor(rows)

    def _batch(self, epoch: int, step: int) -> LanguageBatch:
        _, rows, _ = self._order.batch(epoch, step)
        places = rows[:, None] * self.block + np.arange(self.block + 1)
        taken = self._tokens[places]
        noise = self._order.noise(epoch, step)
        ids, labels = np.ascontiguousarray(taken[:, :-1]), np.ascontiguousarray(taken[:, 1:])
        return LanguageBatch(Tensor(ids), Tensor(noise), Tensor(labels))
