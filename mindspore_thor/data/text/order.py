"""Which pairs form which batch: a pure function of (seed, epoch), the same buckets on all ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# A first word of its own beside those in mindspore_thor.data.order: no two uses share a stream.
_BUCKET_STREAM = 3
_NOISE_STREAM = 4


def pair_noise(seed: int, epoch: int, pairs: np.ndarray) -> np.ndarray:
    """Return a number for each pair that looks random and is another one in every epoch.

    Args:
        seed: The run's data seed, >= 0.
        epoch: Number of the epoch, from 0.
        pairs: Numbers of the pairs, [n].

    Returns:
        int32 [n]: the finisher of MurmurHash3, of 64 bits, over what one generator gives for the
        epoch, plus the pair.
    """
    generator = np.random.default_rng((_NOISE_STREAM, seed, epoch))
    mixed = np.asarray(pairs, np.uint64) + generator.integers(0, 2**63, dtype=np.uint64)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(factor)
    return (mixed >> np.uint64(32)).astype(np.uint32).view(np.int32)


def buckets_of(lengths: np.ndarray, boundaries: tuple[int, ...], *, clip: bool) -> np.ndarray:
    """Return the bucket of each pair.

    Args:
        lengths: Tokens of the longer side with its end sign, [n].
        boundaries: Largest length of each bucket, ascending.
        clip: Whether a longer pair goes to the last bucket; otherwise to none, -1.

    Returns:
        int16 [n]: the first bucket whose boundary is not below the length.
    """
    found = np.searchsorted(np.asarray(boundaries), lengths, side="left")
    too_long = found == len(boundaries)
    found[too_long] = len(boundaries) - 1 if clip else -1
    return found.astype(np.int16)


@dataclass(frozen=True)
class _Plan:
    """The batches of one epoch: ``rows[i, :counts[i]]`` are the pairs of global batch i."""

    epoch: int
    buckets: np.ndarray
    rows: np.ndarray
    counts: np.ndarray


class BucketOrder:
    """Batches of pairs of about one length.

    What is left of a bucket when its whole batches are made goes up into the next one. So each
    epoch has the same number of batches of each bucket, and only what does not fill the last batch
    is left out in training, less than one global batch. In evaluation that batch is kept.

    A global batch has ``batch_size * rank_size`` pairs; rank r takes its r-th part. All ranks have
    the same bucket at the same step.

    Args:
        buckets: Bucket of each pair, [n]; -1 for pairs that take no part.
        number: Number of buckets.
        batch_size: Pairs per batch and rank.
        seed: The run's data seed, >= 0.
        shuffle: Whether pairs and batches are in a fresh random order in each epoch (training).
        rank: This process's number, 0 <= rank < rank_size.
        rank_size: Number of processes.
    """

    def __init__(
        self,
        buckets: np.ndarray,
        number: int,
        batch_size: int,
        seed: int,
        shuffle: bool,
        rank: int = 0,
        rank_size: int = 1,
    ) -> None:
        self._members = [np.flatnonzero(buckets == bucket) for bucket in range(number)]
        self._batch_size = batch_size
        self._seed = seed
        self._shuffle = shuffle
        self._rank = rank
        self._global = batch_size * rank_size
        self._rank_size = rank_size
        rest = 0
        batches = []
        for members in self._members:
            whole, rest = divmod(len(members) + rest, self._global)
            batches.append(whole)
        self.left_out = rest if shuffle else 0
        if rest and not shuffle:
            last = max(bucket for bucket, members in enumerate(self._members) if len(members))
            batches[last] += 1
            # Nothing lies above the last bucket that has pairs, so its rest stays in it.
            assert not sum(batches[last + 1 :])
        self.batches = tuple(batches)
        """Batches of each bucket in one epoch."""
        # Replaced as a whole, because several threads may read it.
        empty = np.empty(0, np.int64)
        self._last = _Plan(-1, empty, empty, empty)

    def __len__(self) -> int:
        """Return the number of batches in one epoch."""
        return sum(self.batches)

    def batch(self, epoch: int, step: int) -> tuple[int, np.ndarray, int]:
        """Return this rank's part of a batch.

        Args:
            epoch: Number of the epoch, from 0.
            step: Number of the batch in it.

        Returns:
            The bucket; the pairs, int64 [batch_size]; and how many of them count, from the front:
            the others repeat a pair to fill the last batch of an evaluation.
        """
        plan = self._plan(epoch)
        row = plan.rows[step]
        first = self._rank * self._batch_size
        used = int(np.clip(plan.counts[step] - first, 0, self._batch_size))
        return int(plan.buckets[step]), row[first : first + self._batch_size], used

    def noise(self, epoch: int, step: int) -> np.ndarray:
        """Return a number for each pair of a batch, int32 [batch_size]; see :func:`pair_noise`."""
        return pair_noise(self._seed, epoch, self.batch(epoch, step)[1])

    def used(self) -> int:
        """Return how many pairs count for this rank in one epoch."""
        if self._shuffle:
            return len(self) * self._batch_size
        return sum(self.batch(0, step)[2] for step in range(len(self)))

    def _plan(self, epoch: int) -> _Plan:
        plan = self._last
        if not self._shuffle:
            epoch = 0
        if plan.epoch != epoch:
            plan = self._made(epoch)
            self._last = plan
        return plan

    def _made(self, epoch: int) -> _Plan:
        generator = np.random.default_rng((_BUCKET_STREAM, self._seed, epoch))
        pool = np.empty(0, np.int64)
        rows = []
        for members, number in zip(self._members, self.batches):
            added = generator.permutation(members) if self._shuffle else members
            pool = np.concatenate((pool, added))
            used = pool[: number * self._global]
            pool = pool[number * self._global :]
            rows.append(used)
        buckets = np.repeat(np.arange(len(self.batches)), self.batches)
        flat = np.concatenate(rows)
        counts = np.full(len(self), self._global)
        missing = len(self) * self._global - len(flat)
        if missing:
            counts[-1] -= missing
            flat = np.concatenate((flat, np.repeat(flat[-1:], missing)))
        table = flat.reshape(len(self), self._global)
        if self._shuffle:
            order = generator.permutation(len(self))
            buckets, table = buckets[order], table[order]
        return _Plan(epoch, buckets, table, counts)
