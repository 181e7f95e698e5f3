"""Random-access sources for ``GeneratorDataset``: a number in, a batch or a sample out.

The number counts through all epochs (epoch * items per epoch + position), so what an item looks
like depends on nothing but the number. Skipping to any place is free, and so is running several
workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mindspore.dataset import vision

from mindspore_thor.data.augment import crop_and_flip, random_resized_box
from mindspore_thor.data.image_file import read_image
from mindspore_thor.data.order import Order, augment_generator
from mindspore_thor.errors import UserError
from mindspore_thor.files import shown

# Resize(256) and CenterCrop(224), the usual evaluation on ImageNet.
_EVAL_RESIZE = 256 / 224

# A thin image grows out of all bounds when its shorter side is scaled up: 1x50000 would take 10 GB.
_MOST_PIXELS = 1 << 27


@dataclass(frozen=True)
class SmallAugment:
    """Augmentation of small images: zero padding before the random cut, and random mirroring."""

    padding: int
    flip: bool


class ArraySource:
    """Finished batches from a data set that fits into memory.

    Args:
        images: uint8 [N, C, H, W].
        labels: int32 [N].
        order: The order of the samples.
        batch_size: Samples per batch; the last batch of an epoch may be smaller.
        steps: Batches per epoch.
        seed: The run's data seed.
        augment: What to do in training, or None.
        mean: Mean of each channel of pixels in [0, 1].
        std: Standard deviation of each channel.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        order: Order,
        batch_size: int,
        steps: int,
        seed: int,
        augment: SmallAugment | None,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self._images = images
        self._labels = labels
        self._order = order
        self._batch_size = batch_size
        self._steps = steps
        self._seed = seed
        self._augment = augment
        # (x / 255 - mean) / std as one multiplication and one addition.
        deviation = np.asarray(std, np.float64).reshape(-1, 1, 1)
        self._factor = (1.0 / (255.0 * deviation)).astype(np.float32)
        self._offset = (-np.asarray(mean, np.float64).reshape(-1, 1, 1) / deviation).astype(
            np.float32
        )
        self._last_draws: tuple[int, tuple[np.ndarray, ...]] = (-1, ())

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return self._steps

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return images float32 [B, C, H, W] and labels int32 [B]."""
        epoch, step = divmod(int(number), self._steps)
        first = step * self._batch_size
        chosen = self._order.indices(epoch)[first : first + self._batch_size]
        images = self._images[chosen]
        if self._augment is not None:
            tops, lefts, flips = (draw[chosen] for draw in self._draws(epoch))
            images = crop_and_flip(images, tops, lefts, flips, self._augment.padding)
        pixels = images * self._factor
        pixels += self._offset
        return pixels, self._labels[chosen]

    def _draws(self, epoch: int) -> tuple[np.ndarray, ...]:
        """Return rows, columns and flips for every sample of the set in this epoch, [N] each."""
        known, draws = self._last_draws
        if known != epoch:
            assert self._augment is not None
            generator = augment_generator(self._seed, epoch)
            count = len(self._labels)
            corners = generator.integers(0, 2 * self._augment.padding + 1, (2, count))
            flips = generator.random(count) < (0.5 if self._augment.flip else 0.0)
            draws = (corners[0], corners[1], flips)
            self._last_draws = (epoch, draws)
        return draws


class FolderSource:
    """Decoded and cut images, one by one, from files on disk.

    Pillow decodes (to the same pixels as MindSpore's Decode, but without holding Python's lock, so
    that worker threads run side by side) and MindSpore's bilinear Resize scales.

    Args:
        files: Image files.
        labels: int32 [N].
        order: The order of the samples.
        per_epoch: Samples used in each epoch.
        seed: The run's data seed.
        image_size: Rows and columns of the result.
        augment: Whether to cut and mirror at random (training) instead of cutting the centre.
    """

    def __init__(
        self,
        files: Sequence[Path],
        labels: np.ndarray,
        order: Order,
        per_epoch: int,
        seed: int,
        image_size: int,
        augment: bool,
    ) -> None:
        self._files = files
        self._labels = labels
        self._order = order
        self._per_epoch = per_epoch
        self._seed = seed
        self._size = image_size
        self._augment = augment
        self._edge = round(image_size * _EVAL_RESIZE)  # the shorter side, in evaluation
        edge = (image_size, image_size) if augment else self._edge
        self._resize = vision.Resize(edge, vision.Inter.LINEAR)

    def __len__(self) -> int:
        """Return the number of samples per epoch."""
        return self._per_epoch

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return an image uint8 [H, W, 3] and its label, int32 []."""
        epoch, position = divmod(int(number), self._per_epoch)
        index = int(self._order.indices(epoch)[position])
        image = read_image(self._files[index])
        if self._augment:
            image = self._cut_at_random(image, augment_generator(self._seed, epoch, index))
        else:
            height, width = image.shape[:2]
            if self._edge**2 * max(height, width) > _MOST_PIXELS * min(height, width):
                raise UserError(
                    f"'{shown(self._files[index], 140)}' has {height}x{width} pixels, too thin to "
                    f"be scaled to {self._edge} on its shorter side: replace or remove the file"
                )
            image = self._cut_centre(image)
        return image, self._labels[index]

    def _cut_at_random(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        flip = generator.random() < 0.5
        height, width = image.shape[:2]
        top, left, rows, columns = random_resized_box(generator, height, width)
        cut = np.ascontiguousarray(image[top : top + rows, left : left + columns])
        resized = self._resize(cut)
        return np.ascontiguousarray(resized[:, ::-1]) if flip else resized

    def _cut_centre(self, image: np.ndarray) -> np.ndarray:
        resized = self._resize(image)
        top = (resized.shape[0] - self._size) // 2
        left = (resized.shape[1] - self._size) // 2
        return np.ascontiguousarray(resized[top : top + self._size, left : left + self._size])
