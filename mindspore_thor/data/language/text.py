"""A text: where it comes from, its three parts, and its characters as numbers."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindspore_thor.data.files import find_file, unreadable
from mindspore_thor.data.pretraining.toy import toy_document
from mindspore_thor.errors import UserError
from mindspore_thor.files import shown

PAD, UNKNOWN, SPECIAL = 0, 1, 2
"""Behind a short block; a character that the training part does not have; how many such ids."""

SHARES = {"train": (0.0, 0.9), "valid": (0.9, 0.95), "test": (0.95, 1.0)}
"""Which part of the text a split is."""

_MOST_BYTES = 1 << 28
_TOY_SEED = 0


def split_of(text: str, split: str) -> str:
    """Return one part of a text: the first nine tenths to train on, then a twentieth each.

    Args:
        text: All of it.
        split: ``train``, ``valid`` or ``test``.
    """
    first, last = (round(share * len(text)) for share in SHARES[split])
    return text[first:last]


def toy_text(characters: int) -> str:
    """Return small documents by a grammar, one after the other.

    Args:
        characters: How long the text is.
    """
    parts: list[str] = []
    size = index = 0
    while size < characters:
        parts.append(" ".join(toy_document(_TOY_SEED, "train", index)) + "\n")
        size += len(parts[-1])
        index += 1
    return "".join(parts)[:characters]


def read_text_file(path: Path) -> str:
    """Return a UTF-8 file's text, line ends as line feeds.

    Args:
        path: Plain, or compressed by gzip (a name that ends in ``.gz``).

    Raises:
        UserError: It cannot be read, is no UTF-8, or unpacks to more than 256 MiB.
    """
    try:
        with gzip.open(path) if path.name.endswith(".gz") else open(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from None
    if len(content) > _MOST_BYTES:
        raise UserError(
            f"'{shown(path, 120)}' has more than {_MOST_BYTES} bytes: give a shorter text"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"'{shown(path, 120)}': byte {error.start + 1} is not UTF-8; convert the file, for "
            "instance with iconv"
        ) from None
    return text.replace("\r\n", "\n")


class Alphabet:
    """Characters by number, in the order of their code points, behind the special ids.

    Args:
        text: The training part.

    Attributes:
        characters: All that it has.
        size: Ids are smaller.
        fingerprint: Tells alphabets apart.
    """

    def __init__(self, text: str) -> None:
        self.characters = "".join(sorted(set(text)))
        self.size = SPECIAL + len(self.characters)
        digest = hashlib.sha256(self.characters.encode("utf-8", "surrogatepass"))
        self.fingerprint = digest.hexdigest()[:16]

    def encode(self, text: str) -> np.ndarray:
        """Return the number of each character, int32 [n]; ``UNKNOWN`` for what it has not."""
        known = np.frombuffer(self.characters.encode("utf-32-le", "surrogatepass"), np.uint32)
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        places = np.minimum(np.searchsorted(known, points), len(known) - 1)
        return np.where(known[places] == points, places + SPECIAL, UNKNOWN).astype(np.int32)

    def decode(self, ids: np.ndarray) -> str:
        """Return the text of some ids; a special one is a replacement character."""
        return "".join(
            self.characters[number - SPECIAL] if number >= SPECIAL else "\ufffd"
            for number in np.asarray(ids).tolist()
        )


@dataclass(frozen=True)
class LanguageSet:
    """What is known beforehand about a text.

    Attributes:
        files: Accepted names of its file; none for a text that is made here.
        make: Characters -> a text that is made here.
    """

    files: tuple[str, ...] = ()
    make: Callable[[int], str] | None = None

    def read(self, folder: Path | None, characters: int) -> tuple[str, str]:
        """Return the whole text, and its name for messages.

        Args:
            folder: Where the file is.
            characters: How long a text is that is made here.

        Raises:
            UserError: The file is missing or cannot be read.
        """
        if self.make is not None:
            return self.make(characters), "the toy text"
        assert folder is not None
        path = find_file([folder], self.files)
        return read_text_file(path), f"'{shown(path, 110)}'"


LANGUAGE_SETS = {
    "toy_text": LanguageSet(make=toy_text),
    "moby_dick": LanguageSet(("moby_dick.txt", "moby_dick.txt.gz")),
    "plain_text": LanguageSet(("text.txt", "text.txt.gz")),
}
