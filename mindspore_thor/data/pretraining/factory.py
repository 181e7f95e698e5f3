"""From a name and a folder to batches for pre-training."""

from __future__ import annotations

import math
from pathlib import Path

from mindspore_thor.data.files import PathLike, check_integers, check_name, data_folder
from mindspore_thor.data.pretraining.corpus import (
    PRETRAINING_SETS,
    PretrainingSet,
    files_of,
    text_of,
)
from mindspore_thor.data.pretraining.documents import DocumentSamples
from mindspore_thor.data.pretraining.masking import Words
from mindspore_thor.data.pretraining.options import PretrainingOptions
from mindspore_thor.data.pretraining.pipeline import PretrainingData, Samples
from mindspore_thor.data.pretraining.records import RecordSamples
from mindspore_thor.data.text.lines import Side, count_lines, spread
from mindspore_thor.data.text.tokens import open_tokens
from mindspore_thor.data.text.training import TOKENS_FOLDER, kept_vocabulary, trained_pieces
from mindspore_thor.data.text.vocabulary import (
    BOS,
    EOS,
    PAD,
    SPECIAL,
    Vocabulary,
)
from mindspore_thor.errors import UserError
from mindspore_thor.files import shown

_MOST = 2**31 - 1
_LARGEST_BATCH = 1 << 16
_MASK_IDS = 1  # [MASK], behind the pieces


def available_pretraining() -> list[str]:
    """Return the names that ``create_pretraining`` knows, sorted."""
    return sorted(PRETRAINING_SETS)


def pretraining_set(name: str) -> PretrainingSet:
    """Return what is known of a data set beforehand.

    Args:
        name: One of ``available_pretraining()``.

    Raises:
        UserError: The name is unknown.
    """
    check_name(name, available_pretraining(), "data set for pre-training")
    return PRETRAINING_SETS[name]


def create_pretraining(
    name: str,
    path: PathLike | None = None,
    *,
    train: bool,
    batch_size: int,
    folder: PathLike,
    seed: int = 0,
    options: PretrainingOptions | None = None,
    rank: int = 0,
    rank_size: int = 1,
    fingerprint: str | None = None,
) -> PretrainingData:
    """Open one split of a data set for pre-training.

    Args:
        name: One of ``available_pretraining()``: ``toy_documents`` (made here, without files),
            ``documents`` (text, one sentence a line, a blank line between documents), or
            ``mlperf_bert`` (TFRecord files with MLPerf's fields).
        path: Folder of the files; of text plain or with ``.gz``.
        train: Whether to open the training split; otherwise the validation split, whose samples are
            the same for every seed.
        batch_size: Samples per batch and process, >= 1.
        folder: Where the vocabulary of a text is kept, beside the run: trained there at the first
            use, read again from then on. What is derived from the files lies there, too.
        seed: Seed of order, sentences and masks, >= 0.
        options: Lengths, shares, size of the vocabulary, file names.
        rank: Number of this process.
        rank_size: Number of processes.
        fingerprint: ``vocabulary.fingerprint`` that a checkpoint was trained with, or None.

    Returns:
        The batches, see ``PretrainingData``.

    Raises:
        UserError: Any argument or file that is not as described above.
    """
    known = pretraining_set(name)
    check_integers(
        batch_size=(batch_size, 1, _LARGEST_BATCH),
        seed=(seed, 0, 2**63 - 1),
        rank=(rank, 0, _MOST - 1),
    )
    check_integers(rank_size=(rank_size, rank + 1, _MOST))
    options = PretrainingOptions() if options is None else options
    options.check()
    source = None if known.toy else data_folder(name, path)
    seed = seed if train else 0
    vocabulary: Vocabulary | None = None
    samples: Samples
    if known.made:
        assert source is not None
        vocab_size = options.vocab_size or known.vocab_size
        samples = _made(known, source, options, train, vocab_size, Path(folder))
    else:
        vocabulary = _vocabulary(known, source, options, Path(folder), fingerprint)
        vocab_size = vocabulary.size + _MASK_IDS
        side = text_of(known, source, options, train)
        samples = _written(known, side, options, train, vocabulary, Path(folder), seed)
    return PretrainingData(
        name=name,
        samples=samples,
        vocab_size=vocab_size,
        vocabulary=vocabulary,
        train=train,
        batch_size=batch_size,
        epoch_batches=options.epoch_batches,
        seed=seed,
        rank=rank,
        rank_size=rank_size,
    )


def _made(
    known: PretrainingSet,
    source: Path,
    options: PretrainingOptions,
    train: bool,
    vocab_size: int,
    folder: Path,
) -> RecordSamples:
    """Return samples from files, after checking that they are as long as was asked for."""
    paths = files_of(known, source, options, train)
    samples = RecordSamples(paths, vocab_size, folder / TOKENS_FOLDER)
    for name, found in (("sequence_length", samples.length), ("predictions", samples.predictions)):
        wanted = getattr(options, name)
        if wanted not in (None, found):
            raise UserError(
                f"{name} is {wanted}, but the samples in '{shown(paths[0], 110)}' have {found}: "
                "leave it out (null)"
            )
    return samples


def _written(
    known: PretrainingSet,
    side: Side,
    options: PretrainingOptions,
    train: bool,
    vocabulary: Vocabulary,
    folder: Path,
    seed: int,
) -> DocumentSamples:
    """Return samples from text."""
    length = options.sequence_length or known.sequence_length
    return DocumentSamples(
        open_tokens(side, vocabulary, folder, "train" if train else "valid"),
        length,
        min(length, options.predictions or max(1, math.ceil(options.masked_share * length))),
        options.masked_share,
        options.short_share,
        Words(PAD, BOS, EOS, vocabulary.size, len(SPECIAL), vocabulary.size - 1),
        seed,
        side.title,
    )


def _vocabulary(
    known: PretrainingSet,
    source: Path | None,
    options: PretrainingOptions,
    folder: Path,
    fingerprint: str | None,
) -> Vocabulary:
    """Return the vocabulary of a text, trained on its training split where there is none yet."""

    def make() -> Vocabulary:
        side = text_of(known, source, options, True)
        count = count_lines(side)
        lines = spread(side.lines(), count, options.vocabulary_lines)
        size = (options.vocab_size or known.vocab_size) - _MASK_IDS
        amount = f"{min(count, options.vocabulary_lines)} training lines"
        return trained_pieces(folder, lines, size, 1.0, amount, _MASK_IDS)

    vocabulary = kept_vocabulary(folder, fingerprint, make)
    if vocabulary.tokenized:
        raise UserError(
            f"'{shown(folder, 110)}' has a list of tokens, but pre-training wants a SentencePiece "
            "model: give another folder"
        )
    size = vocabulary.size + _MASK_IDS
    if options.vocab_size not in (None, size):
        raise UserError(
            f"the vocabulary in '{shown(folder, 110)}' has {size} ids, [MASK] included, but "
            f"vocab_size is {options.vocab_size}: set it to {size}, or give another folder"
        )
    return vocabulary
