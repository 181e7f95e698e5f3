"""Samples from documents: what a pair is, what is masked, and that all of it comes again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mindspore_thor.data.pretraining import PretrainingData, create_pretraining
from mindspore_thor.data.pretraining.documents import DocumentSamples
from mindspore_thor.data.pretraining.masking import Words, made_sample
from mindspore_thor.data.pretraining.options import PretrainingOptions
from mindspore_thor.data.pretraining.toy import toy_document
from mindspore_thor.data.text.tokens import Tokens
from mindspore_thor.errors import UserError

WORDS = Words(pad=0, start=1, end=2, hidden=1000, first=4, last=999)


def test_a_share_of_the_words_is_masked_by_80_10_10() -> None:
    generator = np.random.default_rng(0)
    kinds = np.zeros(3, int)
    where = np.zeros(43, int)
    number, tokens = 3000, 43
    for _ in range(number):
        first, second = generator.integers(4, 1000, 20), generator.integers(4, 1000, 20)
        plain = np.concatenate(([1], first, [2], second, [2]))
        sample = made_sample(first, second, False, 48, 8, 0.15, WORDS, generator)
        count = round(0.15 * tokens)  # six
        places = sample.positions[:count]
        assert (np.diff(places) > 0).all() and (sample.positions[count:] == 0).all()
        assert sample.labels[:count].tolist() == plain[places].tolist()
        assert sample.labels[count:].tolist() == [-1, -1, 0]
        assert sample.mask.tolist() == [1] * tokens + [0] * 5
        assert sample.segments.tolist() == [0] * 22 + [1] * 21 + [0] * 5
        others = np.setdiff1d(np.arange(tokens), places)
        assert (sample.ids[others] == plain[others]).all() and (sample.ids[tokens:] == 0).all()
        now = sample.ids[places]
        hidden, same = now == 1000, now == plain[places]
        kinds += [hidden.sum(), same.sum(), (~hidden & ~same).sum()]
        assert ((now[~hidden] >= 4) & (now[~hidden] <= 999)).all()
        where[places] += 1
    total = number * 6
    assert kinds.sum() == total
    # A random word is the same one in one of 996 cases. Five standard errors.
    for found, share in zip(kinds, (0.8, 0.1 + 0.1 / 996, 0.1 - 0.1 / 996)):
        assert abs(found / total - share) < 5 * np.sqrt(share * (1 - share) / total)
    assert where[[0, 21, 42]].tolist() == [0, 0, 0]
    each = total / 40
    assert np.abs(np.delete(where, [0, 21, 42]) - each).max() < 5 * np.sqrt(each)


def documents(count: int = 12, seed: int = 3) -> tuple[Tokens, list[list[list[int]]]]:
    """Documents whose every token names its document and sentence: no two are alike."""
    generator = np.random.default_rng(seed)
    text, number = [], 4
    for _ in range(count):
        text.append([])
        for _ in range(int(generator.integers(1, 6))):
            size = int(generator.integers(1, 9))
            text[-1].append(list(range(number, number + size)))
            number += size
    # Blank lines in front, several of them, and at the end.
    lines: list[list[int]] = [[]]
    for document in text:
        lines += [*document, [], []]
    values = np.array([token for line in lines for token in line], np.int32)
    return Tokens(values, np.array([len(line) for line in lines], np.int32), 0), text


def samples_of(tokens: Tokens, seed: int = 5, length: int = 16) -> DocumentSamples:
    last = int(tokens._values.max())
    words = Words(0, 1, 2, last + 1, 4, last)
    return DocumentSamples(tokens, length, 3, 0.15, 0.1, words, seed, "'text'")


def test_a_sample_is_two_pieces_of_text_that_follow_or_not() -> None:
    tokens, text = documents()
    samples = samples_of(tokens)
    document = {t: i for i, lines in enumerate(text) for line in lines for t in line}
    seen, others, short, number = set(), 0, 0, 0
    for turn in range(40):
        for index in range(len(samples)):
            sample = samples.sample(turn, index)
            ids = sample.ids.copy()
            asked = sample.labels[:-1] >= 0
            ids[sample.positions[asked]] = sample.labels[:-1][asked]
            used = int(sample.mask.sum())
            ends = np.flatnonzero(ids[:used] == 2)
            assert ids[0] == 1 and len(ends) == 2 and ends[1] == used - 1
            first, second = ids[1 : ends[0]].tolist(), ids[ends[0] + 1 : ends[1]].tolist()
            for piece in (first, second):  # neighbours in the text, from one document
                assert piece == list(range(piece[0], piece[0] + len(piece)))
                assert len({document[token] for token in piece}) == 1
            seen.update(first)
            follows = document[first[0]] == document[second[0]]
            assert sample.labels[-1] == 1 - follows
            assert not follows or second[0] > first[-1]
            others += not follows
            short += used < 16
            number += 1
    assert number == 40 * len(samples)
    # Runs of one sentence have no second half: more than half of the samples do not follow.
    single = int(((samples._runs[:, 2] - samples._runs[:, 1]) == 1).sum())
    share = (single + 0.5 * (len(samples) - single)) / len(samples)
    assert abs(others / number - share) < 5 * np.sqrt(0.25 / number)
    assert 0 < short < number
    assert len(seen) > 0.5 * len(document)


def test_a_sample_depends_on_seed_pass_and_number_alone() -> None:
    tokens, _ = documents()
    one, again, other = samples_of(tokens), samples_of(tokens), samples_of(tokens, seed=6)
    rows = [one.sample(2, index) for index in range(len(one))]
    for index in reversed(range(len(one))):  # in another order
        for a, b in zip(rows[index], again.sample(2, index)):
            assert a.tobytes() == b.tobytes()
    for changed in (
        [one.sample(3, i) for i in range(len(one))],
        [other.sample(2, i) for i in range(len(one))],
    ):
        differ = sum(a.ids.tobytes() != b.ids.tobytes() for a, b in zip(rows, changed))
        assert differ > len(one) / 2


def test_one_document_has_no_other_one() -> None:
    tokens = Tokens(np.arange(4, 9, dtype=np.int32), np.array([2, 3], np.int32), 0)
    with pytest.raises(UserError, match=r"has 1 documents.*blank lines"):
        samples_of(tokens)


def opened(tmp_path: Path, train: bool = True, rank: int = 0, ranks: int = 1) -> PretrainingData:
    return create_pretraining(
        "documents", tmp_path, train=train, batch_size=6 // ranks, folder=tmp_path / "w", seed=2,
        options=PretrainingOptions(sequence_length=24, vocab_size=120), rank=rank, rank_size=ranks,
    )  # fmt: skip


def text_folder(tmp_path: Path) -> Path:
    for split, number in (("train", 30), ("valid", 5)):
        lines = [line for i in range(number) for line in [*toy_document(1, split, i), ""]]
        (tmp_path / f"{split}.txt").write_text("\n".join(lines))
    return tmp_path


def test_a_resumed_epoch_and_two_ranks_have_the_same_samples(tmp_path: Path) -> None:
    folder = text_folder(tmp_path)
    data = opened(folder)
    assert data.vocab_size == 120 and data.vocabulary is not None and data.vocabulary.size == 119
    assert data.predictions == 4  # 0.15 * 24, rounded up
    batches = [[x.asnumpy() for x in batch] for batch in data.epoch(1)]
    assert len(batches) == data.steps_per_epoch >= 3
    later = [[x.asnumpy() for x in batch] for batch in opened(folder).epoch(1, start=2)]
    ranks = [list(opened(folder, True, rank, 2).epoch(1)) for rank in (0, 1)]
    for n, batch in enumerate(batches):
        for column, values in enumerate(batch):
            if n >= 2:
                np.testing.assert_array_equal(values, later[n - 2][column])
            parts = [rank[n][column].asnumpy() for rank in ranks]
            np.testing.assert_array_equal(values, np.concatenate(parts))
    # [MASK] is the last id, and nothing else is.
    ids, positions = batches[0][0], batches[0][3]
    hidden = np.argwhere(ids == 119)
    assert len(hidden) and all(place in positions[row] for row, place in hidden)


def test_the_validation_split_is_the_same_for_every_seed(tmp_path: Path) -> None:
    folder = text_folder(tmp_path)
    found = []
    for seed in (2, 9):
        data = create_pretraining(
            "documents", folder, train=False, batch_size=4, folder=folder / "w", seed=seed,
            options=PretrainingOptions(sequence_length=24, vocab_size=120),
        )  # fmt: skip
        found.append(
            [
                (*(x.asnumpy().tolist() for x in b), u.asnumpy().tolist())
                for b, u in data.evaluation()
            ]
        )
    assert found[0] == found[1]
    assert sum(sum(row[-1]) for row in found[0]) == data.samples
