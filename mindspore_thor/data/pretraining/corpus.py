"""Which files a split of the data is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mindspore_thor.data.files import unreadable
from mindspore_thor.data.pretraining.options import PretrainingOptions
from mindspore_thor.data.pretraining.toy import HELD_OUT, ToyDocuments
from mindspore_thor.data.text.lines import Side, TextFile
from mindspore_thor.errors import UserError, quoted
from mindspore_thor.files import shown


@dataclass(frozen=True)
class PretrainingSet:
    """What is known beforehand about a data set.

    Attributes:
        train: Patterns of the training files' names; the first one that a file has counts.
        valid: The same of the validation files.
        vocab_size: Default number of ids.
        sequence_length: Default length of a sample.
        made: Whether the files hold samples that somebody has made, not text.
        toy: Whether the text is made here.
    """

    train: tuple[str, ...]
    valid: tuple[str, ...]
    vocab_size: int
    sequence_length: int = 128
    made: bool = False
    toy: bool = False


PRETRAINING_SETS = {
    "toy_documents": PretrainingSet((), (), 250, 32, toy=True),
    "documents": PretrainingSet(
        ("train.txt", "train.txt.gz", "train*"), ("valid.txt", "valid.txt.gz", "valid*"), 8000
    ),
    # MLPerf v0.7: 500 parts. The name of its evaluation file was not checked: valid_files gives
    # another.
    "mlperf_bert": PretrainingSet(("part-*", "train*"), ("eval*", "valid*"), 30522, made=True),
}


class TextFiles:
    """The lines of several files, with a blank line between two of them.

    Args:
        paths: The files, in order.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [TextFile(path) for path in paths]

    @property
    def title(self) -> str:
        """The name for messages."""
        more = f" and {len(self._files) - 1} more" if len(self._files) > 1 else ""
        return f"{self._files[0].title}{more}"

    def lines(self) -> Iterator[str]:
        """Return the lines in order; raises ``UserError`` as :class:`TextFile`."""
        for file in self._files:
            yield from file.lines()
            yield ""

    def key(self) -> dict[str, Any]:
        """Return what tells these lines from others."""
        keys = [file.key() for file in self._files]
        return {"size": sum(key["size"] for key in keys), "files": keys}


def files_of(
    known: PretrainingSet, folder: Path, options: PretrainingOptions, train: bool
) -> list[Path]:
    """Return the files of a split, in the order of their names.

    Raises:
        UserError: There is none.
    """
    own = options.pattern(train)
    patterns = (own,) if own is not None else (known.train if train else known.valid)
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise unreadable(folder, error) from None
    for pattern in patterns:
        found = [folder / name for name in names if fnmatchcase(name, pattern)]
        if found:
            return found
    key = "train_files" if train else "valid_files"
    raise UserError(
        f"'{shown(folder, 110)}' has no file {quoted(patterns[0], 60)}: put the "
        f"{'training' if train else 'validation'} files there, or give their names by {key}"
    )


def text_of(
    known: PretrainingSet, folder: Path | None, options: PretrainingOptions, train: bool
) -> Side:
    """Return the text of a split."""
    if folder is None:
        size = options.documents if train else HELD_OUT
        return ToyDocuments("train" if train else "valid", 0, size)
    return TextFiles(files_of(known, folder, options, train))
