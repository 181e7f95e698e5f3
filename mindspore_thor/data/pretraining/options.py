"""What can be chosen about data for pre-training."""

from __future__ import annotations

from dataclasses import dataclass

from mindspore_thor.data.files import check_integers
from mindspore_thor.errors import UserError, quoted

LONGEST = 1 << 12
"""Longest sample: attention grows with the square of it."""

_SHORTEST = 8
_MOST_IDS = 1 << 20
_MOST_SAMPLES = 1 << 27


@dataclass(frozen=True)
class PretrainingOptions:
    """Choices beside the name and the folder; ``None`` stands for the data set's own default.

    Attributes:
        sequence_length: Tokens S of a sample, [CLS] and [SEP] included. Records have their own.
        predictions: Most masked words P of a sample; by default the masked share of S, rounded up.
            Records have their own.
        masked_share: Share of the tokens that are masked.
        short_share: Share of the samples that are made shorter, by any length.
        vocab_size: Number of ids: of text the pieces, four special ones included, and [MASK].
        train_files: Pattern of the training files' names, as in a shell.
        valid_files: The same of the validation files.
        epoch_batches: Batches that are called an epoch; None for all that the data have. The next
            epoch goes on where the last one ended, so that all samples have their turn.
        vocabulary_lines: Most lines that a vocabulary is trained on. From a larger text that many
            are taken at even distances, for SentencePiece holds its text in memory.
        documents: Training documents of ``toy_documents``.
    """

    sequence_length: int | None = None
    predictions: int | None = None
    masked_share: float = 0.15
    short_share: float = 0.1
    vocab_size: int | None = None
    train_files: str | None = None
    valid_files: str | None = None
    epoch_batches: int | None = None
    vocabulary_lines: int = 1_000_000
    documents: int = 2000

    def pattern(self, train: bool) -> str | None:
        """Return the pattern that was chosen for a split."""
        return self.train_files if train else self.valid_files

    def check(self) -> None:
        """Raise ``UserError`` for the first value that cannot be used."""
        optional = {
            "sequence_length": (_SHORTEST, LONGEST),
            "predictions": (1, LONGEST),
            "vocab_size": (6, _MOST_IDS),
            "epoch_batches": (1, _MOST_SAMPLES),
        }
        for name, (least, most) in optional.items():
            if getattr(self, name) is not None:
                check_integers(**{name: (getattr(self, name), least, most)})
        check_integers(
            vocabulary_lines=(self.vocabulary_lines, 1, _MOST_SAMPLES),
            documents=(self.documents, 2, _MOST_SAMPLES),
        )
        for name in ("masked_share", "short_share"):
            share = getattr(self, name)
            if not isinstance(share, (int, float)) or not 0.0 <= share <= 1.0:
                raise UserError(f"{name} is {quoted(share, 40)}: give a share from 0 to 1")
        for name in ("train_files", "valid_files"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value or "/" in value):
                raise UserError(
                    f"{name} is {quoted(value, 40)}: give a pattern of file names in the data "
                    "folder, for instance 'part-*'"
                )
