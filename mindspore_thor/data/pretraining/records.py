"""Samples that somebody else has made, in TFRecord files as MLPerf's BERT has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mindspore_thor.data.pretraining.example import parse_example
from mindspore_thor.data.pretraining.masking import NOT_ASKED, Sample
from mindspore_thor.data.pretraining.tfrecord import RecordFile
from mindspore_thor.errors import UserError
from mindspore_thor.files import shown

_TOKENS = ("input_ids", "segment_ids", "input_mask")
_ASKED = ("masked_lm_positions", "masked_lm_ids", "masked_lm_weights")
_NEXT = "next_sentence_labels"
FIELDS = (*_TOKENS, *_ASKED, _NEXT)


class RecordSamples:
    """The records of files, one after the other; all have as many tokens as the first one.

    Args:
        paths: The files.
        vocab_size: Ids are smaller.
        folder: Where it is kept where records begin, or None.

    Raises:
        UserError: A file cannot be read, or its first record is not as described.
    """

    def __init__(self, paths: Sequence[Path], vocab_size: int, folder: Path | None) -> None:
        self._files = [RecordFile(path, folder) for path in paths]
        self._ends = np.cumsum([len(file) for file in self._files])
        self._vocab_size = vocab_size
        self.length = self.predictions = 0
        fields = self._fields(0)
        self.length, self.predictions = (len(fields[name]) for name in (_TOKENS[0], _ASKED[0]))
        self.sample(0, 0)

    def __len__(self) -> int:
        """Return the number of records."""
        return int(self._ends[-1])

    def sample(self, turn: int, index: int) -> Sample:
        """Return one sample, the same in every pass.

        Args:
            turn: Which pass over the data.
            index: Number of the record, counted over all files.

        Raises:
            UserError: The record cannot be read, or its numbers are not what they should be.
        """
        fields = self._fields(index)
        ids, segments, mask = (fields[name] for name in _TOKENS)
        places, words, weights = (fields[name] for name in _ASKED)
        follows = fields[_NEXT]
        asked = weights > 0
        limits = (
            ("input_ids", ids, self.length, self._vocab_size),
            ("segment_ids", segments, self.length, 2),
            ("input_mask", mask, self.length, 2),
            ("masked_lm_positions", places, self.predictions, self.length),
            ("masked_lm_ids", words, self.predictions, self._vocab_size),
            ("masked_lm_weights", asked, self.predictions, 2),
            (_NEXT, follows, 1, 2),
        )
        for name, values, count, below in limits:
            if len(values) != count:
                raise self._wrong(index, f"{len(values)} {name}, not {count}")
            if count and not 0 <= values.min() <= values.max() < below:
                raise self._wrong(index, f"{name} outside of 0 to {below - 1}")
        labels = np.append(np.where(asked, words, NOT_ASKED), follows)
        rows = (ids, segments, mask, np.where(asked, places, 0), labels)
        return Sample(*[row.astype(np.int32) for row in rows])

    def _fields(self, index: int) -> dict[str, np.ndarray]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        file = self._files[number]
        try:
            fields = parse_example(file.read(index - (int(self._ends[number]) - len(file))))
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise self._wrong(index, "something else than an Example") from None
        missing = [name for name in FIELDS if name not in fields]
        if missing:
            raise self._wrong(index, f"no {missing[0]}")
        return fields

    def _wrong(self, index: int, what: str) -> UserError:
        number = int(np.searchsorted(self._ends, index, side="right"))
        file = self._files[number]
        record = index - (int(self._ends[number]) - len(file))
        return UserError(
            f"'{shown(file.path, 90)}', record {record} has {what}: give MLPerf's BERT files, or "
            "correct data.vocab_size"
        )
