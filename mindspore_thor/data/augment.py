"""Augmentation with the random numbers handed in, so that the same numbers give the same pixels."""

from __future__ import annotations

import math

import numpy as np


def crop_and_flip(
    images: np.ndarray, tops: np.ndarray, lefts: np.ndarray, flips: np.ndarray, padding: int
) -> np.ndarray:
    """Pad with zeros, cut the original size out and mirror, as the zoo does for small images.

    The same as ``RandomCrop((H, W), padding)`` and ``RandomHorizontalFlip`` on the raw pixels.

    Args:
        images: [N, C, H, W], any type.
        tops: Row of each cut in the padded image, [N], 0 <= top <= 2 * padding.
        lefts: Column of each cut, [N], 0 <= left <= 2 * padding.
        flips: Whether to mirror left to right after cutting, [N] bool.
        padding: Pixels added on each of the four sides.

    Returns:
        A new array [N, C, H, W] of the same type.
    """
    count, channels, height, width = images.shape
    padded = np.zeros((count, channels, height + 2 * padding, width + 2 * padding), images.dtype)
    padded[:, :, padding : padding + height, padding : padding + width] = images
    result = np.empty_like(images)
    for index in range(count):
        top, left = tops[index], lefts[index]
        cut = padded[index, :, top : top + height, left : left + width]
        result[index] = cut[:, :, ::-1] if flips[index] else cut
    return result


def random_resized_box(
    generator: np.random.Generator,
    height: int,
    width: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3.0 / 4.0, 4.0 / 3.0),
    attempts: int = 10,
) -> tuple[int, int, int, int]:
    """Draw the crop box of the Inception-style augmentation (``RandomResizedCrop``).

    The area is uniform in ``scale`` times the image's area, the aspect ratio log-uniform in
    ``ratio``. When no attempt fits, the largest central box within ``ratio`` is taken. See Szegedy
    et al., "Going deeper with convolutions" (2015), section 6; the defaults are the zoo's.

    Args:
        generator: Source of the random numbers.
        height: Rows of the image.
        width: Columns of the image.
        scale: Smallest and largest share of the image's area.
        ratio: Smallest and largest width / height.
        attempts: Number of draws before the fallback.

    Returns:
        (top, left, rows, columns), inside the image, rows and columns >= 1.
    """
    for _ in range(attempts):
        area = height * width * generator.uniform(*scale)
        aspect = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
        columns = round(math.sqrt(area * aspect))
        rows = round(math.sqrt(area / aspect))
        if 0 < columns <= width and 0 < rows <= height:
            top = int(generator.integers(0, height - rows + 1))
            left = int(generator.integers(0, width - columns + 1))
            return top, left, rows, columns
    columns = min(width, max(1, round(height * ratio[1])))
    rows = min(height, max(1, round(width / ratio[0])))
    return (height - rows) // 2, (width - columns) // 2, rows, columns
