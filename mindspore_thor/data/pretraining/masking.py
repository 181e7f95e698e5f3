"""A pre-training sample, and how words are masked in it (Devlin et al. 2019, section 3.1)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NOT_ASKED = -1
"""The label of a position that does not count."""

_HIDDEN, _KEPT = 0.8, 0.1  # the rest becomes any word


class Sample(NamedTuple):
    """Two sentences with masked words; S tokens, at most P masked ones.

    Attributes:
        ids: int32 [S]: [CLS], first sentence, [SEP], second sentence, [SEP], padding.
        segments: int32 [S]: 0 up to the first [SEP], 1 up to the second, 0 at padding.
        mask: int32 [S]: 1 for tokens, 0 for padding.
        positions: int32 [P]: of the masked words, rising, then 0.
        labels: int32 [P + 1]: the words that stood there, then -1; at the end 0 where the second
            sentence follows the first, and 1 where it does not.
    """

    ids: np.ndarray
    segments: np.ndarray
    mask: np.ndarray
    positions: np.ndarray
    labels: np.ndarray


class Words(NamedTuple):
    """Ids that have a meaning.

    Attributes:
        pad: Padding.
        start: [CLS].
        end: [SEP].
        hidden: [MASK].
        first: The first id of a word.
        last: The last one.
    """

    pad: int
    start: int
    end: int
    hidden: int
    first: int
    last: int


def made_sample(
    first: np.ndarray,
    second: np.ndarray,
    other: bool,
    length: int,
    predictions: int,
    share: float,
    words: Words,
    generator: np.random.Generator,
) -> Sample:
    """Put two sentences together and mask words in them.

    Of all tokens, [CLS] and [SEP] counted, a share is chosen among the words: 80 % of the chosen
    ones become [MASK], 10 % any word, 10 % stay.

    Args:
        first: Ids, [n].
        second: Ids, [m], n + m + 3 <= length.
        other: Whether the second does not follow the first.
        length: Tokens S of the sample.
        predictions: Most masked words P.
        share: Share of masked words.
        words: Ids that have a meaning.
        generator: Of this sample alone.
    """
    ids = np.full(length, words.pad, np.int32)
    segments, mask = np.zeros(length, np.int32), np.zeros(length, np.int32)
    middle, used = len(first) + 1, len(first) + len(second) + 3
    ids[0], ids[middle], ids[used - 1] = words.start, words.end, words.end
    ids[1:middle] = first
    ids[middle + 1 : used - 1] = second
    segments[middle + 1 : used] = 1
    mask[:used] = 1
    candidates = np.concatenate((np.arange(1, middle), np.arange(middle + 1, used - 1)))
    count = min(predictions, max(1, round(share * used)), len(candidates))
    chosen = np.sort(generator.permutation(candidates)[:count])
    positions = np.zeros(predictions, np.int32)
    labels = np.full(predictions + 1, NOT_ASKED, np.int32)
    positions[:count] = chosen
    labels[:count] = ids[chosen]
    labels[-1] = int(other)
    draw = generator.random(count)
    anything = generator.integers(words.first, words.last + 1, count)
    ids[chosen] = np.where(
        draw < _HIDDEN, words.hidden, np.where(draw < _HIDDEN + _KEPT, ids[chosen], anything)
    )
    return Sample(ids, segments, mask, positions, labels)
