"""From a name and a folder of parallel text to batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mindspore_thor.data.files import PathLike, check_integers, check_name, data_folder
from mindspore_thor.data.order import limited
from mindspore_thor.data.text.corpus import TEXT_SETS, Corpus, TextSet
from mindspore_thor.data.text.lines import Side, check_parallel
from mindspore_thor.data.text.options import SPLITS, TextOptions
from mindspore_thor.data.text.order import BucketOrder, buckets_of
from mindspore_thor.data.text.pipeline import Dropped, TextData, TextSource
from mindspore_thor.data.text.tokens import Tokens, open_tokens
from mindspore_thor.data.text.training import run_vocabulary
from mindspore_thor.data.text.vocabulary import Vocabulary
from mindspore_thor.errors import UserError, quoted
from mindspore_thor.files import shown

_MOST = 2**31 - 1
_LARGEST_BATCH = 1 << 16

# Of a text that a vocabulary was trained on it knows nearly all; another alphabet is another text.
_MOST_UNKNOWN = 0.1


def available_text() -> list[str]:
    """Return the names that ``create_text`` knows, sorted."""
    return sorted(TEXT_SETS)


def text_set(name: str) -> TextSet:
    """Return what is known of a data set beforehand.

    Args:
        name: One of ``available_text()``.

    Raises:
        UserError: The name is unknown.
    """
    check_name(name, available_text(), "translation data set")
    return TEXT_SETS[name]


def create_text(
    name: str,
    path: PathLike | None = None,
    *,
    split: str,
    batch_size: int,
    vocabulary_folder: PathLike,
    seed: int = 0,
    options: TextOptions | None = None,
    rank: int = 0,
    rank_size: int = 1,
    fingerprint: str | None = None,
) -> TextData:
    """Open one split of a translation data set.

    Args:
        name: One of ``available_text()``: ``toy_translation`` (made by a grammar, without files),
            ``multi30k``, ``wmt14`` (raw, or as the model zoo prepares it), ``parallel_text``
            (``train``, ``valid``, ``test``).
        path: Folder of the files ``<stem>.<language>``, plain or with ``.gz``.
        split: ``train``, ``valid`` or ``test``.
        batch_size: Pairs per batch and process, >= 1.
        vocabulary_folder: Where the vocabulary is kept, beside the run: trained there at the first
            use, read again from then on. The encoded text lies there, too, in ``tokens``.
        seed: Seed of the order, >= 0.
        options: Languages, size of the vocabulary, buckets, file names.
        rank: Number of this process.
        rank_size: Number of processes.
        fingerprint: ``vocabulary.fingerprint`` that a checkpoint was trained with, or None.

    Returns:
        The batches, see ``TextData``.

    Raises:
        UserError: Any argument or file that is not as described above.
    """
    known = text_set(name)
    if split not in SPLITS:
        raise UserError(f"split is {quoted(split, 40)}: use one of {', '.join(SPLITS)}")
    check_integers(
        batch_size=(batch_size, 1, _LARGEST_BATCH),
        seed=(seed, 0, 2**63 - 1),
        rank=(rank, 0, _MOST - 1),
    )
    check_integers(rank_size=(rank_size, rank + 1, _MOST))
    options = TextOptions() if options is None else options
    options.check()
    boundaries = tuple(int(length) for length in options.buckets or known.buckets)
    corpus = Corpus(known, None if known.toy else data_folder(name, path), options)
    folder = Path(vocabulary_folder)
    vocabulary, corpus = run_vocabulary(folder, corpus, fingerprint)
    sides = corpus.sides(split)
    tokens = _encoded(sides, vocabulary, folder, split, options)
    placed, blank, too_long = _placed(tokens, boundaries, sides, train=split == "train")
    usable = np.flatnonzero(placed >= 0)
    used = limited(usable, options.limit if split == "train" else 0)
    beyond = len(usable) - len(used)
    kept = np.full_like(placed, -1)
    kept[used] = placed[used]
    order = BucketOrder(kept, len(boundaries), batch_size, seed, split == "train", rank, rank_size)
    if not len(order):
        ranks = f" in each of {rank_size} processes" if rank_size > 1 else ""
        raise UserError(
            f"batch_size {batch_size}{ranks} is larger than the {len(used)} training "
            f" pairs of '{name}' that are left: choose a smaller batch_size"
            f"{' or a larger limit' if beyond else ''}"
        )
    return TextData(
        name=name,
        split=split,
        languages=options.languages,
        sides=sides,
        vocabulary=vocabulary,
        batch_size=batch_size,
        buckets=boundaries,
        source=TextSource(*tokens, order, boundaries),
        dropped=Dropped(
            blank=blank,
            too_long=too_long if split == "train" else 0,
            incomplete=order.left_out,
            clipped=0 if split == "train" else too_long,
            beyond=beyond,
        ),
    )


def _encoded(
    sides: tuple[Side, Side],
    vocabulary: Vocabulary,
    folder: Path,
    split: str,
    options: TextOptions,
) -> tuple[Tokens, Tokens]:
    """Return both sides encoded, after checking that they and the vocabulary belong together."""
    source, target = (
        open_tokens(side, vocabulary, folder, f"{split}.{language}")
        for side, language in zip(sides, options.languages)
    )
    check_parallel(*sides, (len(source), len(target)))
    if split == "train":
        for side, tokens in zip(sides, (source, target)):
            if tokens.unknown > _MOST_UNKNOWN * tokens.total:
                share = 100.0 * tokens.unknown / tokens.total
                raise UserError(
                    f"the vocabulary in '{shown(folder, 90)}' does not know {share:.0f} % of the "
                    f"pieces of {side.title}: it is another text's; give another folder"
                )
    return source, target


def _placed(
    tokens: tuple[Tokens, Tokens],
    boundaries: tuple[int, ...],
    sides: tuple[Side, Side],
    train: bool,
) -> tuple[np.ndarray, int, int]:
    """Return the bucket of each pair, and how many pairs are left out as blank and are too long."""
    one, other = (side.lengths for side in tokens)
    lengths = np.maximum(one, other) + 1
    too_long = lengths > boundaries[-1]
    placed = buckets_of(lengths, boundaries, clip=not train)
    if not train:
        return placed, 0, int(too_long.sum())
    blank = (one == 0) | (other == 0)
    placed[blank] = -1
    if not (placed >= 0).any():
        raise UserError(
            f"all {len(lengths)} pairs of {sides[0].title} are blank or longer than the last "
            f"bucket of {boundaries[-1]} (up to {int(lengths.max())}): raise buckets"
        )
    return placed, int(blank.sum()), int((too_long & ~blank).sum())
