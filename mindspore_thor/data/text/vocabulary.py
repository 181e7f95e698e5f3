"""Vocabularies: text to numbers of pieces, and back."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from mindspore_thor.data.files import unreadable
from mindspore_thor.errors import UserError
from mindspore_thor.files import shown, write_file

PAD, BOS, EOS, UNKNOWN = 0, 1, 2, 3
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")

MODEL_FILE = "vocabulary.model"
WORDS_FILE = "vocabulary.words"

_CUT_WORD = re.compile(r"@@( |$)")


class Vocabulary(Protocol):
    """What every vocabulary can do.

    Attributes:
        size: Number of pieces, the special ones included: 0 padding, 1 start, 2 end, 3 unknown.
        fingerprint: 16 hexadecimal digits, a hash of the pieces in their order: what a checkpoint
            keeps to know its vocabulary again.
        tokenized: Whether the text that it decodes to stays cut into tokens, as prepared files
            are, so that scores must not cut it again.
        file: Name of the file that it is stored in.
        content: That file's content.
    """

    size: int
    fingerprint: str
    tokenized: bool
    file: str

    @property
    def content(self) -> bytes:
        """See the class."""

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """Return the pieces of each line, without start and end sign."""

    def decode(self, rows: Iterable[Sequence[int]]) -> list[str]:
        """Return the text of each row of pieces, which ends at the first end sign."""

    def surface(self, line: str) -> str:
        """Return a line of the files as it is decoded where the translation is right."""


class SentencePieceVocabulary:
    """A SentencePiece model: raw text in, raw text out.

    Args:
        path: The ``.model`` file.

    Raises:
        UserError: It cannot be read, is no SentencePiece model, or has other special pieces.
    """

    tokenized = False
    file = MODEL_FILE

    def __init__(self, path: Path) -> None:
        sentencepiece = _sentencepiece()
        try:
            content = path.read_bytes()
        except OSError as error:
            raise unreadable(path, error) from None
        name = shown(path, 120)
        try:
            model = sentencepiece.SentencePieceProcessor()
            # An exception, where a constructor with empty bytes would hand out an empty model.
            model.LoadFromSerializedProto(content)
            pieces = [model.id_to_piece(number) for number in range(model.get_piece_size())]
            special = (model.pad_id(), model.bos_id(), model.eos_id(), model.unk_id())
            model.decode(model.encode("".join(pieces)))
        except (RuntimeError, ValueError, TypeError, IndexError):  # UnicodeDecodeError, too
            raise UserError(
                f"'{name}' is no sound SentencePiece model: remove it to train one anew"
            ) from None
        if special != (PAD, BOS, EOS, UNKNOWN):
            raise UserError(
                f"'{name}' numbers padding, start, end and unknown piece {special}, not 0, 1, 2, 3"
                ": train it with pad_id=0, bos_id=1, eos_id=2, unk_id=3"
            )
        self._model = model
        self._content = content
        self.size = len(pieces)
        self.fingerprint = _fingerprint("sentencepiece", pieces)

    @property
    def content(self) -> bytes:
        """The model as it was read."""
        return self._content

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """Return the pieces of each line, without start and end sign."""
        return self._model.encode(list(lines))

    def decode(self, rows: Iterable[Sequence[int]]) -> list[str]:
        """Return the text of each row of pieces, which ends at the first end sign."""
        return self._model.decode([_plain(row, self.size) for row in rows])

    def surface(self, line: str) -> str:
        """Return the line."""
        return line


class WordVocabulary:
    """A list of tokens, for files that were cut into them beforehand (``@@`` joins).

    Args:
        tokens: All tokens but the special ones; one that comes again is passed over.
    """

    tokenized = True
    file = WORDS_FILE

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = list(dict.fromkeys([*SPECIAL, *tokens]))
        # A text that quotes a special piece must not end its own sentence.
        self._numbers = {
            token: number for number, token in enumerate(self.tokens) if number >= len(SPECIAL)
        }
        self.size = len(self.tokens)
        self.fingerprint = _fingerprint("words", self.tokens)

    @property
    def content(self) -> bytes:
        """One token a line."""
        return "".join(f"{token}\n" for token in self.tokens).encode()

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """Return the numbers of each line's tokens, without start and end sign."""
        numbers = self._numbers
        return [[numbers.get(token, UNKNOWN) for token in line.split()] for line in lines]

    def decode(self, rows: Iterable[Sequence[int]]) -> list[str]:
        """Return the text of each row of tokens, words joined, which ends at the end sign."""
        return [
            self.surface(" ".join(self.tokens[number] for number in _plain(row, self.size)))
            for row in rows
        ]

    def surface(self, line: str) -> str:
        """Return the line with its words joined."""
        return _CUT_WORD.sub("", line)


def read_words(path: Path) -> WordVocabulary:
    """Read a list of tokens, one a line.

    Raises:
        UserError: It cannot be read, or holds no token.
    """
    try:
        lines = path.read_bytes().decode().split("\n")
    except UnicodeDecodeError:
        raise UserError(f"'{shown(path, 120)}' is not UTF-8: give one token a line") from None
    except OSError as error:
        raise unreadable(path, error) from None
    vocabulary = WordVocabulary(token for token in (line.strip() for line in lines) if token)
    if vocabulary.size == len(SPECIAL):
        raise UserError(f"'{shown(path, 120)}' holds no token: give one token a line")
    return vocabulary


def write_words(vocabulary: WordVocabulary, path: Path) -> None:
    """Write a list of tokens, whole or not at all."""
    write_file(path, [vocabulary.content], len(vocabulary.content))


def open_vocabulary(folder: str | Path, fingerprint: str | None = None) -> Vocabulary | None:
    """Open the vocabulary that a run stored.

    Args:
        folder: Where it stored it.
        fingerprint: What the checkpoint says of its vocabulary, or None.

    Returns:
        The vocabulary, or None where there is none.

    Raises:
        UserError: It cannot be read, or is not the checkpoint's.
    """
    vocabulary: Vocabulary
    model, words = Path(folder) / MODEL_FILE, Path(folder) / WORDS_FILE
    try:
        if model.is_file():
            path, vocabulary = model, SentencePieceVocabulary(model)
        elif words.is_file():
            path, vocabulary = words, read_words(words)
        else:
            return None
    except OSError as error:
        raise unreadable(folder, error) from None
    if fingerprint is not None and vocabulary.fingerprint != fingerprint:
        raise UserError(
            f"'{shown(path, 110)}' (fingerprint {vocabulary.fingerprint}) is not the vocabulary "
            f"{shown(fingerprint, 20)} that the checkpoint was trained with: give that run's folder"
        )
    return vocabulary


def _plain(row: Sequence[int], size: int) -> list[int]:
    """Return the pieces of a row that stand for text."""
    plain = []
    for number in row:
        if number == EOS:
            break
        if not 0 <= number < size:
            raise ValueError(f"piece {number} is not in a vocabulary of {size}")
        if number not in (PAD, BOS):
            plain.append(int(number))
    return plain


def _fingerprint(kind: str, pieces: Iterable[str]) -> str:
    # A piece holds no line end: SentencePiece makes a blank of it, and a list has one token a line.
    digest = hashlib.sha256(kind.encode())
    for piece in pieces:
        digest.update(b"\n" + piece.encode())
    return digest.hexdigest()[:16]


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError:
        raise UserError(
            "SentencePiece is missing: install it with pip install 'mindspore_thor[translate]'"
        ) from None
    return sentencepiece
