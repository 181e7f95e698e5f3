"""Which sample comes when: a pure function of (seed, epoch, rank) that needs no memory."""

from __future__ import annotations

import numpy as np

# The first word of every generator's key, so that no two uses share a random stream.
_ORDER_STREAM = 1
_AUGMENT_STREAM = 2
_VALIDATION_STREAM = 3
_LIMIT_STREAM = 5  # 3 and 4 are also used in mindspore_thor.data.text.order


def check_position(epoch: int, start: int, steps_per_epoch: int) -> None:
    """Refuse a place that no training has.

    Args:
        epoch: Number of the epoch, from 0.
        start: Number of a batch in it, from 0; ``steps_per_epoch`` is its end.
        steps_per_epoch: Batches per epoch.

    Raises:
        ValueError: One of them is out of range.
    """
    if epoch < 0 or not 0 <= start <= steps_per_epoch:
        raise ValueError(
            f"epoch {epoch}, start {start}: epoch must be >= 0 and start within 0 .. "
            f"{steps_per_epoch}"
        )


def augment_generator(seed: int, epoch: int, *key: int) -> np.random.Generator:
    """Return the generator of the augmentation of one epoch, or of one sample in it.

    Args:
        seed: The run's data seed, >= 0.
        epoch: Number of the epoch, from 0.
        *key: Further non-negative words, for instance the index of a sample.
    """
    return np.random.default_rng((_AUGMENT_STREAM, seed, epoch, *key))


def split_off(size: int, held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Split a set's samples into those to train on and those that are held out.

    The split depends on both numbers alone, on no run's seed: all runs are judged by the same
    samples, and none is judged by what another one was trained on.

    Args:
        size: Number of samples, > held_out.
        held_out: How many are held out.

    Returns:
        The indices of either part, rising: [size - held_out] and [held_out].
    """
    permutation = np.random.default_rng((_VALIDATION_STREAM, size)).permutation(size)
    return np.sort(permutation[held_out:]), np.sort(permutation[:held_out])


def limited(samples: np.ndarray, limit: int) -> np.ndarray:
    """Choose the samples of a shorter training.

    The choice depends on the number of samples alone, on no run's seed, and a smaller limit chooses
    some of what a larger one does.

    Args:
        samples: What may be trained on, [n].
        limit: How many of them are; 0 for all.

    Returns:
        min(n, limit) of the samples, in their order.
    """
    if not limit or limit >= len(samples):
        return samples
    permutation = np.random.default_rng((_LIMIT_STREAM, len(samples))).permutation(len(samples))
    return samples[np.sort(permutation[:limit])]


class Order:
    """The order of the samples that one rank sees in each epoch.

    Training shards all have ``size // rank_size`` samples and are disjoint; what does not divide is
    left out, another part in each epoch. Evaluation runs through the data in file order, and every
    sample belongs to exactly one rank, so that a sum over the ranks counts each sample once; there
    the shards' sizes may differ by one.

    Args:
        size: Number of samples in the whole set.
        seed: The run's data seed, >= 0.
        shuffle: Whether the order is a fresh permutation in each epoch (training).
        rank: This process's number, 0 <= rank < rank_size.
        rank_size: Number of processes.
    """

    def __init__(
        self, size: int, seed: int, shuffle: bool, rank: int = 0, rank_size: int = 1
    ) -> None:
        self._size = size
        self._seed = seed
        self._shuffle = shuffle
        self._rank = rank
        self._rank_size = rank_size
        # One entry (epoch, indices); replaced as a whole, because several threads may read it.
        self._last: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def __len__(self) -> int:
        """Return the number of samples of this rank in one epoch."""
        if self._shuffle:
            return self._size // self._rank_size
        return len(range(self._rank, self._size, self._rank_size))

    def indices(self, epoch: int) -> np.ndarray:
        """Return the sample indices [len(self)] of this rank in the given epoch, in order."""
        known, indices = self._last
        if known != epoch:
            if self._shuffle:
                generator = np.random.default_rng((_ORDER_STREAM, self._seed, epoch))
                permutation = generator.permutation(self._size)
                used = len(self) * self._rank_size
                indices = permutation[self._rank : used : self._rank_size]
            else:
                indices = np.arange(self._rank, self._size, self._rank_size)
            self._last = (epoch, indices)
        return indices
