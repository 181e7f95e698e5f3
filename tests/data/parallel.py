"""Small parallel files for the tests of translation data."""

from __future__ import annotations

import gzip
from pathlib import Path
from random import Random
from typing import Any

from mindspore_thor.data.text import TextData, TextOptions, create_text

OPTIONS = TextOptions(vocab_size=60, buckets=(8, 12, 20))
WORDS = ("ba", "bo", "du", "dumi", "fela", "ga", "kilo", "lam", "mo", "nesta", "pir", "su")


def sentences(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Return pairs of 1 to 11 words; the second language has the words in reverse."""
    random = Random(seed)
    pairs = []
    for _ in range(count):
        words = [random.choice(WORDS) for _ in range(random.randint(1, 11))]
        pairs.append((" ".join(words), " ".join(reversed(words)).upper()))
    return pairs


def write_pairs(
    folder: Path, stem: str, pairs: list[tuple[str, str]], *, zipped: bool = False
) -> Path:
    """Write ``stem.en`` and ``stem.de``."""
    folder.mkdir(parents=True, exist_ok=True)
    for side, language in enumerate(("en", "de")):
        content = "".join(f"{pair[side]}\n" for pair in pairs).encode()
        if zipped:
            (folder / f"{stem}.{language}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / f"{stem}.{language}").write_bytes(content)
    return folder


def corpus(folder: Path, train: int = 200, valid: int = 23) -> Path:
    """Write a training and a validation split."""
    write_pairs(folder, "train", sentences(train, 1))
    return write_pairs(folder, "valid", sentences(valid, 2))


def opened(folder: Path, split: str = "train", **changes: Any) -> TextData:
    """Open a split of ``corpus`` with small buckets, its vocabulary beside it."""
    arguments: dict[str, Any] = {
        "split": split,
        "batch_size": 4,
        "vocabulary_folder": folder.with_name(f"{folder.name}-run"),
        "options": OPTIONS,
    }
    return create_text("parallel_text", folder, **{**arguments, **changes})
