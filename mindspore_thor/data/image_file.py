"""One image file as RGB, whatever the file claims to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mindspore_thor.errors import UserError
from mindspore_thor.files import shown

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp")

# What the suffixes mean, and nothing else: a file's content decides which of Pillow's readers runs,
# whatever its name, and the one of EPS starts a program.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")


def read_image(path: Path) -> np.ndarray:
    """Return an image file as RGB, uint8 [H, W, 3].

    Grey becomes three equal channels, 16 bits per channel are scaled to 8, and transparency is left
    out: the colours are those that the file holds behind it.

    Args:
        path: A JPEG, PNG, BMP or WebP file under any name.

    Raises:
        UserError: The file is gone, truncated, not such an image, or larger than Pillow allows.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if min(image.size) < 1:
                raise ValueError(f"{image.size[0]}x{image.size[1]} pixels")
            return _rgb(image)
    except UnidentifiedImageError:
        reason = f"its content is none of {', '.join(_FORMATS)}"
    except Image.DecompressionBombError as error:
        reason = str(error).split(",")[0]  # the numbers of pixels, without the guess at a reason
    except Exception as error:  # Pillow passes on whatever its readers meet in a damaged file
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    raise UserError(
        f"'{shown(path, 140)}' cannot be read as an image ({shown(reason, 80)}): replace or remove "
        "the file"
    )


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "I" or image.mode.startswith("I;16"):
        # 16 bits of grey: Pillow would cut off at 255 instead of scaling.
        wide = np.asarray(image).astype(np.uint32)
        return np.repeat(((wide + 128) // 257).astype(np.uint8)[:, :, None], 3, 2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours; directly to RGB, Pillow warns
    return np.asarray(image.convert("RGB"))
