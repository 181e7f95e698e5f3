"""What can be chosen about a translation data set."""

from __future__ import annotations

import numbers
import re
from dataclasses import dataclass

from mindspore_thor.data.files import check_integers
from mindspore_thor.errors import UserError, quoted

SPLITS = ("train", "valid", "test")

LONGEST = 1 << 12
"""Largest bucket: attention grows with the square of it."""

_MOST_PIECES = 1 << 20
_MOST_SENTENCES = 1 << 27
_LANGUAGE = re.compile(r"[A-Za-z0-9_@-]{1,16}", re.ASCII)


@dataclass(frozen=True)
class TextOptions:
    """Choices beside the name and the folder; ``None`` stands for the data set's own default.

    Attributes:
        source_language: Suffix of the files that are translated from.
        target_language: Suffix of the files that are translated to.
        vocab_size: Pieces of the joint vocabulary, the four special ones included.
        buckets: Padded lengths, ascending. A pair goes to the first one that holds its longer side
            with the end sign. Training leaves out what is longer than the last one; evaluation
            cuts it.
        train_stem: File name of the training split without the language's suffix.
        valid_stem: The same for the validation split.
        test_stem: The same for the test split.
        character_coverage: Share of the characters of the training text that the vocabulary has;
            the rarest others become the unknown piece. Below 1 for text with stray characters.
        vocabulary_sentences: Most pairs that the vocabulary is trained on. From a larger corpus
            that many are taken at even distances, for SentencePiece holds its text in memory.
        sentences: Training pairs of ``toy_translation`` in one epoch.
        limit: How many of the training pairs are used, always the same ones; 0 for all.
        corpus_seed: Seed of ``toy_translation``'s sentences, apart from the seed of their order.
    """

    source_language: str = "en"
    target_language: str = "de"
    vocab_size: int | None = None
    buckets: tuple[int, ...] | None = None
    train_stem: str | None = None
    valid_stem: str | None = None
    test_stem: str | None = None
    character_coverage: float = 1.0
    vocabulary_sentences: int = 1_000_000
    sentences: int = 10_000
    limit: int = 0
    corpus_seed: int = 0

    @property
    def languages(self) -> tuple[str, str]:
        """Source and target language."""
        return self.source_language, self.target_language

    def stem(self, split: str) -> str | None:
        """Return the stem that was chosen for a split."""
        return {"train": self.train_stem, "valid": self.valid_stem, "test": self.test_stem}[split]

    def check(self) -> None:
        """Raise ``UserError`` for the first value that cannot be used."""
        for name in ("source_language", "target_language"):
            value = getattr(self, name)
            if not isinstance(value, str) or not _LANGUAGE.fullmatch(value):
                raise UserError(
                    f"{name} is {quoted(value, 40)}: give the suffix of the files, such as 'en'"
                )
        if self.source_language == self.target_language:
            raise UserError(
                f"source_language and target_language are both '{self.source_language}': name two"
            )
        for split in SPLITS:
            stem = self.stem(split)
            if stem is not None and (
                not isinstance(stem, str) or not stem or "\0" in stem or "/" in stem
            ):
                raise UserError(
                    f"{split}_stem is {quoted(stem, 40)}: give a file name in the data folder "
                    "without the language, for instance 'train'"
                )
        if self.vocab_size is not None:
            check_integers(vocab_size=(self.vocab_size, 5, _MOST_PIECES))
        check_integers(
            vocabulary_sentences=(self.vocabulary_sentences, 1, _MOST_SENTENCES),
            sentences=(self.sentences, 1, _MOST_SENTENCES),
            limit=(self.limit, 0, _MOST_SENTENCES),
            corpus_seed=(self.corpus_seed, 0, 2**63 - 1),
        )
        coverage = self.character_coverage
        if not isinstance(coverage, numbers.Real) or not 0.9 <= coverage <= 1.0:
            raise UserError(
                f"character_coverage is {quoted(coverage, 40)}: give a number from 0.9 to 1"
            )
        if self.buckets is not None:
            check_buckets(self.buckets)


def check_buckets(buckets: object) -> None:
    """Raise ``UserError`` where the bucket boundaries are no ascending lengths.

    Args:
        buckets: What was given.
    """
    if not isinstance(buckets, (tuple, list)) or not buckets:
        raise UserError(
            f"buckets is {quoted(buckets, 60)}: give ascending lengths, for instance 16, 24, 32, 48"
        )
    for length in buckets:
        check_integers(buckets=(length, 2, LONGEST))
    if any(one >= other for one, other in zip(buckets, buckets[1:])):
        raise UserError(
            f"buckets are {quoted(tuple(buckets), 60)}: give lengths that grow from one to the next"
        )
