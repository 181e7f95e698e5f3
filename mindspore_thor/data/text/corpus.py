"""Which files a split of a parallel corpus is made of."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from mindspore_thor.data.files import unreadable
from mindspore_thor.data.text.lines import Side, TextFile
from mindspore_thor.data.text.options import TextOptions
from mindspore_thor.data.text.toy import HELD_OUT, ToySide
from mindspore_thor.errors import UserError
from mindspore_thor.files import shown

_PREPARED = re.compile(r"\.(bpe\.\d+)$", re.ASCII)


@dataclass(frozen=True)
class TextSet:
    """What is known beforehand about a data set.

    Attributes:
        stems: For each split the accepted file names without the language, the usual one first.
        vocab_size: Default size of the vocabulary.
        buckets: Default boundaries.
        toy: Whether the text is made by the toy grammar.
    """

    stems: dict[str, tuple[str, ...]]
    vocab_size: int
    buckets: tuple[int, ...]
    toy: bool = False


_TOY_VOCABULARY_SENTENCES = 10_000
_ORDINARY = (16, 24, 32, 48)

TEXT_SETS = {
    "toy_translation": TextSet({}, 1000, (12, 22), toy=True),
    # Names of multi30k/dataset, data/task1/raw. Boundaries: chosen; 22 % of the target is padding.
    "multi30k": TextSet(
        {
            "train": ("train",),
            "valid": ("val", "valid"),
            "test": ("test_2016_flickr", "test2016", "test"),
        },
        8000,
        _ORDINARY,
    ),
    # The prepared training names and the boundaries are the model zoo's. The prepared newstest
    # names follow them, unchecked against its files: valid_stem and test_stem give others.
    "wmt14": TextSet(
        {
            "train": ("train.tok.clean.bpe.32000", "train"),
            "valid": ("newstest2013.tok.bpe.32000", "newstest2013", "valid", "val"),
            "test": ("newstest2014.tok.bpe.32000", "newstest2014", "test"),
        },
        32000,
        (16, 32, 48, 64, 128),
    ),
    "parallel_text": TextSet(
        {"train": ("train",), "valid": ("valid", "val", "dev"), "test": ("test",)}, 8000, _ORDINARY
    ),
}


@dataclass(frozen=True)
class Corpus:
    """A data set with its folder and options.

    Attributes:
        known: The data set.
        folder: The data folder, or None where the text is made.
        options: The checked options.
        prepared: Whether the files hold the tokens of a byte-pair encoding, words cut at ``@@``;
            None where nothing tells.
    """

    known: TextSet
    folder: Path | None
    options: TextOptions
    prepared: bool | None = None

    def judged(self, prepared: bool | None) -> Corpus:
        """Return the corpus with ``prepared`` found out.

        The stored vocabulary says it where there is one; else the name of the training files.

        Args:
            prepared: What the stored vocabulary says, or None.
        """
        if self.known.toy:
            return replace(self, prepared=False)
        if prepared is None:
            prepared = _PREPARED.search(self._find("train")[0]) is not None
        return replace(self, prepared=prepared)

    def sides(self, split: str) -> tuple[Side, Side]:
        """Return source and target of a split.

        Raises:
            UserError: A file is missing.
        """
        if self.known.toy:
            return self._toy_sides(split, self.options.sentences if split == "train" else HELD_OUT)
        _, source, target = self._find(split)
        return TextFile(source), TextFile(target)

    def vocabulary_sides(self) -> tuple[Side, Side]:
        """Return the text that the vocabulary is trained on: the training split.

        Of the toy corpus it is always the same number of sentences, so that the vocabulary does not
        depend on the size of an epoch.
        """
        if self.known.toy:
            return self._toy_sides("train", _TOY_VOCABULARY_SENTENCES)
        return self.sides("train")

    def _toy_sides(self, split: str, size: int) -> tuple[Side, Side]:
        seed = self.options.corpus_seed
        one, other = (ToySide(split, item, seed, size) for item in self.options.languages)
        return one, other

    def words_file(self) -> Path:
        """Return the list of tokens that belongs to prepared files, ``vocab.bpe.32000``."""
        assert self.folder is not None
        found = _PREPARED.search(self._find("train")[0])
        path = self.folder / f"vocab.{found.group(1) if found else 'bpe.32000'}"
        if not path.is_file():
            raise UserError(
                f"'{shown(path, 120)}' is missing: the prepared files need the list of tokens that "
                "their preparation wrote beside them"
            )
        return path

    def _find(self, split: str) -> tuple[str, Path, Path]:
        """Return the stem and the two files of a split."""
        assert self.folder is not None
        own = self.options.stem(split)
        stems = (own,) if own is not None else self.known.stems[split]
        if own is None and self.prepared is not None:
            stems = tuple(s for s in stems if bool(_PREPARED.search(s)) == self.prepared)
        try:
            names = sorted(entry.name for entry in self.folder.iterdir() if entry.is_file())
        except OSError as error:
            raise unreadable(self.folder, error) from None
        for stem in stems:
            languages = _languages(names, stem)
            if all(language in languages for language in self.options.languages):
                one, other = (self.folder / languages[item] for item in self.options.languages)
                return stem, one, other
        for stem in stems:
            languages = _languages(names, stem)
            if languages:
                missing = next(item for item in self.options.languages if item not in languages)
                known = ", ".join(shown(item, 16) for item in sorted(languages)[:8])
                raise UserError(
                    f"'{shown(self.folder / stem, 110)}' has no language '{missing}': found {known}"
                    "; correct source_language or target_language"
                )
        wanted = f"{stems[0] if stems else split}.{self.options.source_language}"
        others = f" or, as their stem, {', '.join(stems[1:])}" if len(stems) > 1 else ""
        raise UserError(
            f"'{shown(self.folder / wanted, 110)}' is missing: expected it, or with .gz"
            f"{others}; {split}_stem names other files"
        )


def _languages(names: list[str], stem: str) -> dict[str, str]:
    """Return the languages of a stem, with the file of each; a plain one goes before its .gz."""
    found: dict[str, str] = {}
    for name in names:
        if not name.startswith(f"{stem}."):
            continue
        rest = name[len(stem) + 1 :]
        language = rest[:-3] if rest.endswith(".gz") else rest
        if language and "." not in language and language != "gz":
            found.setdefault(language, name)
    return found
