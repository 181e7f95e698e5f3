"""A data set as the training loop sees it: repeatable batches of any epoch, from any step."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Callable, Protocol

import mindspore.dataset as ds
import numpy as np
from mindspore import Tensor

from mindspore_thor.data.order import check_position
from mindspore_thor.errors import UserError

COLUMNS = ["image", "label"]


class Source(Protocol):
    """What ``GeneratorDataset`` reads: an image and a label (or a batch of both) for a number."""

    def __len__(self) -> int:
        """Return the number of items per epoch."""

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return item ``number``, counted through all epochs."""


class EpochSampler(ds.Sampler):
    """Numbers the items of consecutive epochs: MindSpore asks for an iterator once per epoch.

    Args:
        first: The first epoch.
        items: Items per epoch.
        start: First item of the epoch.
    """

    def __init__(self, first: int, items: int, start: int = 0) -> None:
        super().__init__(items - start)
        self._epoch = first
        self._items = items
        self._start = start

    def __iter__(self) -> Iterator[int]:
        """Return the numbers of the next epoch's items."""
        base = self._epoch * self._items
        self._epoch += 1
        return iter(range(base + self._start, base + self._items))


class Data:
    """Batches of one split of a data set, exactly repeatable.

    Attributes:
        name: Name of the data set.
        num_classes: Number of classes; labels are 0 .. num_classes - 1.
        image_shape: (C, H, W) of one image.
        size: Number of samples of this rank in one epoch, an incomplete batch included.
        batch_size: Samples per batch.
        steps_per_epoch: Batches per epoch; also ``len(data)``.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        image_shape: tuple[int, int, int],
        size: int,
        batch_size: int,
        steps_per_epoch: int,
        build: Callable[[EpochSampler], ds.Dataset],
        items_per_step: int,
        items_per_epoch: int,
    ) -> None:
        """Store the figures; ``create_data`` is the way to make one.

        Args:
            name: See the attributes.
            num_classes: See the attributes.
            image_shape: See the attributes.
            size: See the attributes.
            batch_size: See the attributes.
            steps_per_epoch: See the attributes.
            build: Makes the MindSpore pipeline that reads the items its sampler names.
            items_per_step: Items of the source in one batch (1 where the source makes batches).
            items_per_epoch: Items of the source in one epoch.
        """
        self.name = name
        self.num_classes = num_classes
        self.image_shape = image_shape
        self.size = size
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self._build = build
        self._items_per_step = items_per_step
        self._items_per_epoch = items_per_epoch

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return self.steps_per_epoch

    def epoch(self, index: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over one epoch.

        The batches depend only on the arguments of ``create_data`` and on ``index``; nothing that
        is skipped is read.

        Args:
            index: Number of the epoch, from 0.
            start: First batch, 0 <= start <= steps_per_epoch.

        Returns:
            An iterator over images float32 [B, C, H, W] and labels int32 [B].

        Raises:
            ValueError: ``index`` or ``start`` is out of range.
            UserError: While iterating: a file cannot be read.
        """
        check_position(index, start, self.steps_per_epoch)
        return self._batches(index, start)

    def dataset(self, index: int = 0) -> ds.Dataset:
        """Return a MindSpore dataset for ``ms.Model``; pass after pass it runs through the epochs.

        Args:
            index: The epoch of the first pass; the next passes are index + 1, index + 2 ...

        Returns:
            A dataset with the columns ``image`` and ``label``, already batched.
        """
        return self._build(EpochSampler(index, self._items_per_epoch))

    def _batches(self, index: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        first_item = start * self._items_per_step
        if first_item >= self._items_per_epoch:
            return
        pipeline = self._build(EpochSampler(index, self._items_per_epoch, first_item))
        batches = pipeline.create_tuple_iterator(num_epochs=1)
        while True:
            try:
                images, labels = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                known = user_error_in(error)
                if known is None:
                    raise
                raise known from None
            yield images, labels


def user_error_in(error: BaseException) -> UserError | None:
    """Find the UserError inside the text of an exception from MindSpore's data pipeline.

    The pipeline turns an exception of its worker into a RuntimeError that quotes the traceback;
    ``ms.Model.train`` passes that on.

    Args:
        error: Any exception.

    Returns:
        A UserError with the original line, or None when there is none in it.
    """
    if isinstance(error, UserError):
        return error
    # With several workers the traceback is quoted inside another one; the last line is the cause.
    found = re.findall(rf"\b{UserError.__name__}: ([^\n]+)", str(error))
    return UserError(found[-1].strip()) if found else None


def batch_pipeline(source: Source, sampler: EpochSampler) -> ds.Dataset:
    """Return the pipeline over a source that hands out finished batches."""
    return ds.GeneratorDataset(source, COLUMNS, sampler=sampler, python_multiprocessing=False)


def sample_pipeline(
    source: Source,
    sampler: EpochSampler,
    operations: list,
    batch_size: int,
    drop_remainder: bool,
    num_workers: int,
) -> ds.Dataset:
    """Return the pipeline over a source that hands out single samples.

    Args:
        source: Gives (image, label) for a number.
        sampler: Gives the numbers.
        operations: MindSpore transforms for the image.
        batch_size: Samples per batch.
        drop_remainder: Whether to leave out an incomplete last batch.
        num_workers: Threads for reading, and for the transforms; no more than there are processors
            are used. The result does not depend on it.
    """
    # MindSpore refuses a larger number, and a recipe should work on a smaller machine too.
    num_workers = min(num_workers, os.cpu_count() or 1)
    dataset = ds.GeneratorDataset(
        source,
        COLUMNS,
        sampler=sampler,
        num_parallel_workers=num_workers,
        python_multiprocessing=False,
    )
    dataset = dataset.map(operations, "image", num_parallel_workers=num_workers)
    return dataset.batch(batch_size, drop_remainder, num_parallel_workers=1)
