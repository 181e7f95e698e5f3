"""From a name and a folder to blocks of text."""

from __future__ import annotations

from mindspore_thor.data.files import PathLike, check_integers, check_name, data_folder
from mindspore_thor.data.language.pipeline import LanguageData
from mindspore_thor.data.language.text import LANGUAGE_SETS, SHARES, Alphabet, split_of
from mindspore_thor.errors import UserError
from mindspore_thor.files import shown

_MOST = 2**31 - 1
_LARGEST_BATCH = 1 << 16
LONGEST = 1 << 14
"""Most tokens of a block."""
TOY_CHARACTERS = 40_000


def available_language() -> list[str]:
    """Return the names that ``create_language`` knows, sorted."""
    return sorted(LANGUAGE_SETS)


def create_language(
    name: str,
    path: PathLike | None = None,
    *,
    split: str,
    batch_size: int,
    block: int = 128,
    seed: int = 0,
    characters: int = TOY_CHARACTERS,
    rank: int = 0,
    rank_size: int = 1,
    fingerprint: str | None = None,
    limit: int = 0,
) -> LanguageData:
    """Open one split of a text, its characters as tokens.

    The first nine tenths are trained on, the next twentieth is the validation split, the last one
    the test split. Blocks lie behind one another; training shuffles them, as a function of (seed,
    epoch) alone.

    Args:
        name: One of ``available_language()``: ``toy_text`` (made here, without a file),
            ``moby_dick`` (``moby_dick.txt``), or ``plain_text`` (``text.txt``); ``.gz`` as well.
        path: Folder of the file.
        split: ``train``, ``valid`` or ``test``.
        batch_size: Blocks per batch and process, >= 1.
        block: Tokens of a block, >= 1.
        seed: Seed of the order, >= 0.
        characters: Length of ``toy_text``.
        rank: Number of this process.
        rank_size: Number of processes.
        fingerprint: ``alphabet.fingerprint`` that a checkpoint was trained with, or None.
        limit: How many of the training blocks are used, always the same ones; 0 for all.

    Returns:
        The batches, see ``LanguageData``.

    Raises:
        UserError: Any argument or file that is not as described above, or the text has another
            alphabet than the checkpoint's.
    """
    check_name(name, available_language(), "text")
    check_name(split, sorted(SHARES), "split")
    check_integers(
        batch_size=(batch_size, 1, _LARGEST_BATCH),
        block=(block, 1, LONGEST),
        seed=(seed, 0, 2**63 - 1),
        characters=(characters, 1, 10**8),
        limit=(limit, 0, _MOST),
        rank=(rank, 0, _MOST - 1),
    )
    check_integers(rank_size=(rank_size, rank + 1, _MOST))
    known = LANGUAGE_SETS[name]
    folder = None if known.make is not None else data_folder(name, path)
    text, title = known.read(folder, characters)
    training = split_of(text, "train")
    if not training:
        raise UserError(f"{title} has no characters to train on: give a longer text")
    alphabet = Alphabet(training)
    if fingerprint not in (None, alphabet.fingerprint):
        raise UserError(
            f"{title} has the alphabet {alphabet.fingerprint}, but the checkpoint was trained with "
            f"{shown(str(fingerprint), 20)}: give that run's text"
        )
    return LanguageData(
        name,
        alphabet.encode(training if split == "train" else split_of(text, split)),
        alphabet,
        block,
        split == "train",
        batch_size,
        seed,
        rank,
        rank_size,
        limit if split == "train" else 0,
    )
