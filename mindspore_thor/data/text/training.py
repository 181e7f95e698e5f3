"""The vocabulary of a run: trained at its first use, read again afterwards."""

from __future__ import annotations

import itertools
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mindspore.dataset.text import SentencePieceModel, SentencePieceVocab

from mindspore_thor.data.text.corpus import Corpus
from mindspore_thor.data.text.lines import check_parallel, count_lines, spread
from mindspore_thor.data.text.vocabulary import (
    BOS,
    EOS,
    MODEL_FILE,
    PAD,
    UNKNOWN,
    WORDS_FILE,
    SentencePieceVocabulary,
    Vocabulary,
    open_vocabulary,
    read_words,
    write_words,
)
from mindspore_thor.errors import UserError, shortened
from mindspore_thor.files import held, remove_leftovers, shown, write_file

_STDERR = 2

TOKENS_FOLDER = "tokens"
"""Folder beside the vocabulary for what is derived from it. It is held while something is made, for
a run holds the folder around it itself."""


def run_vocabulary(
    folder: Path, corpus: Corpus, fingerprint: str | None = None
) -> tuple[Vocabulary, Corpus]:
    """Return a run's vocabulary, and the corpus with ``prepared`` found out.

    The first process that comes trains it, the others wait for that and read it. Where folders are
    not shared or cannot be held, each trains its own: the result is the same pieces.

    Args:
        folder: Where it is, or will be.
        corpus: The data set.
        fingerprint: The vocabulary that a checkpoint asks for, or None.

    Raises:
        UserError: A file cannot be read or written, the stored vocabulary does not fit, or the
            training text is not enough for its size.
    """
    vocabulary = kept_vocabulary(folder, fingerprint, lambda: _made(folder, corpus.judged(None)))
    corpus = corpus.judged(vocabulary.tokenized)
    size = corpus.options.vocab_size
    if size is not None and size != vocabulary.size:
        name = WORDS_FILE if vocabulary.tokenized else MODEL_FILE
        raise UserError(
            f"'{shown(folder / name, 110)}' has {vocabulary.size} pieces, but vocab_size is {size}"
            f": set it to {vocabulary.size}, or give another folder"
        )
    return vocabulary, corpus


def kept_vocabulary(
    folder: Path, fingerprint: str | None, make: Callable[[], Vocabulary]
) -> Vocabulary:
    """Return the vocabulary that a folder has, after one process has made it.

    Args:
        folder: Where it is, or will be.
        fingerprint: The vocabulary that a checkpoint asks for, or None.
        make: Writes it into the folder.

    Raises:
        UserError: See :func:`run_vocabulary`.
    """
    vocabulary = open_vocabulary(folder, fingerprint)
    if vocabulary is None:
        if fingerprint is not None:
            raise UserError(
                f"'{shown(folder, 110)}' has no vocabulary, but the checkpoint was trained with "
                "one: give the folder of its run"
            )
        with held_tokens(folder):
            vocabulary = open_vocabulary(folder)
            if vocabulary is None:
                vocabulary = make()
    return vocabulary


@contextmanager
def held_tokens(folder: Path) -> Iterator[Path]:
    """Hold the folder of derived files, which is made where it is missing.

    Args:
        folder: The folder of the vocabulary.

    Yields:
        The folder of derived files.

    Raises:
        UserError: The system refuses something, here or in the block.
    """
    derived = folder / TOKENS_FOLDER
    try:
        with held(derived, wait=True):
            remove_leftovers(derived)
            yield derived
    except OSError as error:
        raise UserError(
            f"'{shown(folder, 110)}' cannot hold the vocabulary ({shown(error.strerror, 60)}): "
            "check the path, its permissions and the disk"
        ) from None


def _made(folder: Path, corpus: Corpus) -> Vocabulary:
    if corpus.prepared:
        words = read_words(corpus.words_file())
        write_words(words, folder / WORDS_FILE)
        return words
    options = corpus.options
    source, target = corpus.vocabulary_sides()
    counts = count_lines(source), count_lines(target)
    check_parallel(source, target, counts)
    most = options.vocabulary_sentences
    lines = itertools.chain(*(spread(side.lines(), counts[0], most) for side in (source, target)))
    size = options.vocab_size or corpus.known.vocab_size
    amount = f"{min(counts[0], most)} training pairs"
    return trained_pieces(folder, lines, size, float(options.character_coverage), amount)


def trained_pieces(
    folder: Path, lines: Iterable[str], size: int, coverage: float, amount: str, more: int = 0
) -> SentencePieceVocabulary:
    """Train a vocabulary and keep it.

    Args:
        folder: Where to.
        lines: The text.
        size: Number of pieces.
        coverage: Share of the text's characters that are no unknown pieces.
        amount: How much text it is, for messages.
        more: Ids that somebody adds to the pieces, for messages, too.

    Raises:
        UserError: The text is not enough for the size, or the file cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="vocabulary-") as scratch:
        text = Path(scratch, "text")
        with open(text, "w", encoding="utf-8", newline="\n") as file:
            for line in lines:
                file.write(f"{line}\n")
        try:
            with _silenced():
                trained = SentencePieceVocab.from_file(
                    [str(text)],
                    size,
                    coverage,
                    SentencePieceModel.BPE,
                    {
                        "pad_id": str(PAD),
                        "bos_id": str(BOS),
                        "eos_id": str(EOS),
                        "unk_id": str(UNKNOWN),
                        "minloglevel": "2",
                    },
                )
            SentencePieceVocab.save_model(trained, scratch, MODEL_FILE)
        except RuntimeError as error:
            raise _refused(str(error), size, amount, more) from None
        content = Path(scratch, MODEL_FILE).read_bytes()
    write_file(folder / MODEL_FILE, [content], len(content))
    return SentencePieceVocabulary(folder / MODEL_FILE)


@contextmanager
def _silenced() -> Iterator[None]:
    """Drop what C++ writes on the error stream: SentencePiece warns of what the exception says."""
    try:
        kept = os.dup(_STDERR)
    except OSError:  # it is closed
        yield
        return
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, _STDERR)
    try:
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)
        os.close(sink)


def _refused(message: str, size: int, amount: str, more: int) -> UserError:
    """Return the error that says what SentencePiece wants."""
    most = re.search(r"too high \(\d+\)\. Please set it to a value <= (\d+)", message)
    if most:
        return UserError(
            f"vocab_size {size + more} is too large for the {amount}: they give "
            f"{int(most.group(1)) + more} pieces at most"
        )
    least = re.search(r"smaller than required_chars\. \d+ vs (\d+)", message)
    if least:
        return UserError(
            f"vocab_size {size + more} is too small: the characters of the training text alone "
            f"need {int(least.group(1)) + more}; raise it, or lower character_coverage"
        )
    if "sentences_.empty()" in message:
        return UserError(
            "the training text holds no sentence that a vocabulary could be trained on: give lines "
            "of at most 4192 bytes that are not all blank"
        )
    found = re.search(r"SentencePieceVocab: (.+)", message)
    reason = shortened(found.group(1) if found else message, 120)
    return UserError(f"SentencePiece cannot be trained on the text ({reason}): check its files")
