"""From a name and a path to batches: the one place that knows every data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Callable

import numpy as np
from mindspore.dataset import vision

from mindspore_thor.data.cifar import read_cifar10, read_cifar100
from mindspore_thor.data.files import (
    PathLike,
    RawSet,
    check_integers,
    check_labels,
    check_name,
    data_folder,
)
from mindspore_thor.data.idx import read_idx_set
from mindspore_thor.data.imagenet import list_tree
from mindspore_thor.data.order import Order, limited, split_off
from mindspore_thor.data.pipeline import Data, batch_pipeline, sample_pipeline
from mindspore_thor.data.sources import ArraySource, FolderSource, SmallAugment
from mindspore_thor.errors import UserError
from mindspore_thor.files import shown

_MOST = 2**31 - 1  # MindSpore's own counts are 32 bits wide
_MOST_SEED = 2**63 - 1
_LARGEST_IMAGE = 4096

SAMPLE_FOLDER = Path(__file__).parent / "sample"

Reader = Callable[[Path, bool], RawSet]


@dataclass(frozen=True)
class ArraySet:
    """What is known beforehand about a data set that fits into memory."""

    read: Reader
    num_classes: int
    image_size: int
    mean: Sequence[float]
    std: Sequence[float]
    augment: SmallAugment
    bundled: Path | None = None


# Mean and standard deviation of all pixels of the training set in [0, 1], computed from the files;
# those of CIFAR-100 are the figures in common use (e.g. weiaicunzai/pytorch-cifar100).
_MNIST = ((0.1307,), (0.3081,))
_FASHION_MNIST = ((0.2860,), (0.3530,))
_CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_CIFAR100 = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
# The figures of torchvision and of MindSpore's model zoo.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

ARRAY_SETS = {
    "fashion_mnist_sample": ArraySet(
        read_idx_set, 10, 28, *_FASHION_MNIST, SmallAugment(2, True), SAMPLE_FOLDER
    ),
    "mnist": ArraySet(read_idx_set, 10, 28, *_MNIST, SmallAugment(2, False)),
    "fashion_mnist": ArraySet(read_idx_set, 10, 28, *_FASHION_MNIST, SmallAugment(2, True)),
    "cifar10": ArraySet(read_cifar10, 10, 32, *_CIFAR10, SmallAugment(4, True)),
    "cifar100": ArraySet(read_cifar100, 100, 32, *_CIFAR100, SmallAugment(4, True)),
}


_IMAGENET_CLASSES, _IMAGENET_SIZE = 1000, 224


@dataclass(frozen=True)
class ImageFacts:
    """What is known of a data set without its files.

    Attributes:
        num_classes: Number of classes; of a tree like ImageNet's, those of ImageNet.
        image_size: Rows and columns; of ImageNet, unless others are asked for.
        mean: Mean of each channel of pixels in [0, 1].
        std: Standard deviation of each channel.
    """

    num_classes: int
    image_size: int
    mean: Sequence[float]
    std: Sequence[float]


def image_facts(name: str) -> ImageFacts:
    """Return what is known of a data set without its files.

    Args:
        name: One of ``available_data()``.

    Raises:
        UserError: The name is unknown.
    """
    check_name(name, available_data(), "data set")
    if name == "imagenet":
        return ImageFacts(_IMAGENET_CLASSES, _IMAGENET_SIZE, *_IMAGENET)
    known = ARRAY_SETS[name]
    return ImageFacts(known.num_classes, known.image_size, known.mean, known.std)


@dataclass(frozen=True)
class _Request:
    """The checked arguments of ``create_data`` that every data set needs."""

    name: str
    train: bool
    batch_size: int
    seed: int
    augment: bool
    num_workers: int
    rank: int
    rank_size: int
    drop_remainder: bool
    num_classes: int | None
    normalize: bool
    validation: int
    limit: int

    @property
    def training_files(self) -> bool:
        """Whether the images come from the files of the training split."""
        return self.train or self.validation > 0

    def chosen(self, size: int) -> np.ndarray | slice:
        """Return which of ``size`` images in the files belong to the split: rising indices."""
        limit = self.limit if self.train else 0
        if not self.validation:
            return limited(np.arange(size), limit) if limit else slice(None)
        if self.validation >= size:
            raise UserError(
                f"validation {self.validation} leaves none of the {size} training samples of "
                f"'{self.name}': hold out fewer"
            )
        return limited(split_off(size, self.validation)[0 if self.train else 1], limit)

    def share(self, size: int) -> tuple[Order, int, int]:
        """Return this rank's order, its batches per epoch and its samples used per epoch."""
        order = Order(size, self.seed, self.train, self.rank, self.rank_size)
        steps, rest = divmod(len(order), self.batch_size)
        if not self.drop_remainder and rest:
            return order, steps + 1, len(order)
        if not steps:
            ranks = f" in each of {self.rank_size} processes" if self.rank_size > 1 else ""
            split = "training" if self.train else "evaluation"
            raise UserError(
                f"batch_size {self.batch_size} is larger than the {len(order)} {split} samples of "
                f"'{self.name}'{ranks}: choose a smaller batch_size"
                f"{' or a larger limit' if self.train and self.limit else ''}"
            )
        return order, steps, steps * self.batch_size


def available_data() -> list[str]:
    """Return the names that ``create_data`` knows, sorted."""
    return sorted([*ARRAY_SETS, "imagenet"])


def create_data(
    name: str,
    path: PathLike | None = None,
    *,
    train: bool,
    batch_size: int,
    seed: int = 0,
    augment: bool = True,
    num_workers: int = 1,
    image_size: int | None = None,
    rank: int = 0,
    rank_size: int = 1,
    drop_remainder: bool | None = None,
    num_classes: int | None = None,
    normalize: bool = True,
    validation: int = 0,
    limit: int = 0,
) -> Data:
    """Open one split of a data set.

    Training shuffles and, with ``augment``, changes the images at random; both are functions of
    (seed, epoch, sample) alone. Evaluation keeps the order of the files.

    Args:
        name: One of ``available_data()``.
        path: Folder of the files. Only ``fashion_mnist_sample`` works without: then the bundled
            files are read.
        train: Whether to open the training split instead of the test or validation split.
        batch_size: Samples per batch and process, >= 1.
        seed: Seed of order and augmentation, >= 0.
        augment: Whether training images are augmented: a random cut after zero padding (2 pixels on
            28x28 images, 4 on 32x32) and mirroring (not for MNIST); for ImageNet a random cut,
            scaled, and mirroring, instead of the central cut.
        num_workers: Threads that read ImageNet; sets in memory need only one.
        image_size: Rows and columns for ImageNet, default 224; the others have a fixed size.
        rank: Number of this process.
        rank_size: Number of processes.
        drop_remainder: Whether to leave out an incomplete last batch; default: only in training.
        num_classes: Number of classes of the model, when it is not the data set's own.
        normalize: Whether pixels are shifted and scaled by the data set's mean and deviation;
            without, they lie in [0, 1].
        validation: How many of the training images are held out, always the same ones; 0 for none.
            With ``train`` the others are opened, without it these, in place of the test images.
        limit: How many of the images that are left are trained on, always the same ones; 0 for all.

    Returns:
        The batches, see ``Data``.

    Raises:
        UserError: Any argument or file that is not as described above.
    """
    check_name(name, available_data(), "data set")
    check_integers(
        batch_size=(batch_size, 1, _MOST),
        seed=(seed, 0, _MOST_SEED),
        num_workers=(num_workers, 1, _MOST),
        rank=(rank, 0, _MOST - 1),
    )
    check_integers(rank_size=(rank_size, rank + 1, _MOST))
    if num_classes is not None:
        check_integers(num_classes=(num_classes, 1, _MOST))
    check_integers(validation=(validation, 0, _MOST), limit=(limit, 0, _MOST))
    if image_size is not None:
        check_integers(image_size=(image_size, 1, _LARGEST_IMAGE))
    request = _Request(
        name=name,
        train=train,
        batch_size=batch_size,
        seed=seed,
        augment=train and augment,
        num_workers=num_workers,
        rank=rank,
        rank_size=rank_size,
        drop_remainder=train if drop_remainder is None else drop_remainder,
        num_classes=num_classes,
        normalize=normalize,
        validation=validation,
        limit=limit,
    )
    if name == "imagenet":
        return _open_tree(request, data_folder(name, path), image_size or _IMAGENET_SIZE)
    known = ARRAY_SETS[name]
    folder = known.bundled if path is None and known.bundled else data_folder(name, path)
    return _open_arrays(request, known, folder, image_size)


def _open_arrays(request: _Request, known: ArraySet, folder: Path, image_size: int | None) -> Data:
    images, labels, files = known.read(folder, request.training_files)
    _, channels, height, width = images.shape
    if image_size is not None and (image_size, image_size) != (height, width):
        raise UserError(
            f"image_size {image_size} does not fit '{request.name}', whose images have {height}x"
            f"{width} pixels: leave image_size out (only imagenet is scaled)"
        )
    num_classes = request.num_classes or known.num_classes
    first = 0
    for path, count in files:
        check_labels(path, labels[first : first + count], num_classes)
        first += count
    chosen = request.chosen(len(labels))
    images, labels = images[chosen], labels[chosen]
    order, steps, _ = request.share(len(labels))
    source = ArraySource(
        images,
        labels.astype(np.int32),
        order,
        request.batch_size,
        steps,
        request.seed,
        known.augment if request.augment else None,
        known.mean if request.normalize else [0.0] * channels,
        known.std if request.normalize else [1.0] * channels,
    )
    return Data(
        name=request.name,
        num_classes=num_classes,
        image_shape=(channels, height, width),
        size=len(order),
        batch_size=request.batch_size,
        steps_per_epoch=steps,
        build=partial(batch_pipeline, source),
        items_per_step=1,
        items_per_epoch=steps,
    )


def _open_tree(request: _Request, folder: Path, image_size: int) -> Data:
    files, labels, classes = list_tree(folder, request.training_files)
    chosen = request.chosen(len(labels))
    labels = labels[chosen]
    files = [files[index] for index in np.arange(len(files))[chosen]]
    num_classes = request.num_classes or len(classes)
    if len(classes) > num_classes:
        raise UserError(
            f"'{shown(folder)}' has {len(classes)} classes, more than num_classes "
            f"{num_classes} of the model: set num_classes to {len(classes)}"
        )
    order, steps, used = request.share(len(labels))
    source = FolderSource(
        files, labels, order, used, request.seed, image_size, augment=request.augment
    )
    figures = _IMAGENET if request.normalize else ((0.0,) * 3, (1.0,) * 3)
    mean, std = ([255.0 * value for value in numbers] for numbers in figures)
    build = partial(
        sample_pipeline,
        source,
        operations=[vision.Normalize(mean, std), vision.HWC2CHW()],
        batch_size=request.batch_size,
        drop_remainder=request.drop_remainder,
        num_workers=request.num_workers,
    )
    return Data(
        name=request.name,
        num_classes=num_classes,
        image_shape=(3, image_size, image_size),
        size=len(order),
        batch_size=request.batch_size,
        steps_per_epoch=steps,
        build=build,
        items_per_step=request.batch_size,
        items_per_epoch=used,
    )
