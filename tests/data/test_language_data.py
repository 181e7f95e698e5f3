"""Running text: its parts, its characters as numbers, blocks in an exact order, what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspore_thor.data.language import LanguageData, create_language
from mindspore_thor.data.language.text import Alphabet, read_text_file, split_of, toy_text
from mindspore_thor.errors import UserError


def opened(folder: Path | None = None, **changes: Any) -> LanguageData:
    options = {"split": "train", "batch_size": 3, "block": 7, "characters": 1500, **changes}
    return create_language("toy_text" if folder is None else "plain_text", folder, **options)


def rows_of(data: LanguageData, epoch: int = 0, start: int = 0) -> list[tuple[bytes, bytes]]:
    return [
        (ids.tobytes(), labels.tobytes())
        for batch in data.epoch(epoch, start)
        for ids, labels in zip(batch.ids.asnumpy(), batch.labels.asnumpy())
    ]


@given(st.text(max_size=300))
def test_the_parts_make_the_text(text: str) -> None:
    parts = [split_of(text, split) for split in ("train", "valid", "test")]
    assert "".join(parts) == text
    assert len(parts[0]) == round(0.9 * len(text))


@given(st.text(min_size=1), st.text())
def test_characters_and_numbers(training: str, other: str) -> None:
    alphabet = Alphabet(training)
    assert alphabet.decode(alphabet.encode(training)) == training
    assert alphabet.size == 2 + len(set(training))
    ids = alphabet.encode(other)
    assert [number == 1 for number in ids] == [letter not in training for letter in other]
    # Numbers rise with the code points, from 2 on.
    ranks = {letter: 2 + k for k, letter in enumerate(sorted(set(training)))}
    assert ids.tolist() == [ranks.get(letter, 1) for letter in other]


def test_a_block_is_followed_by_its_labels() -> None:
    data = opened(split="valid", batch_size=2)
    text = split_of(toy_text(1500), "valid")
    whole = data.alphabet.encode(text)
    found_ids, found_labels, count = [], [], 0
    for batch, used in data.evaluation():
        rows = int(used.asnumpy().sum())
        assert used.asnumpy().tolist() == [1.0] * rows + [0.0] * (2 - rows)
        found_ids += batch.ids.asnumpy()[:rows].tolist()
        found_labels += batch.labels.asnumpy()[:rows].tolist()
        count += rows
    # 75 characters: ten blocks of 7 that are followed by one more, and 4 that fill none.
    assert (len(text), count, data.blocks, data.rest) == (75, 10, 10, 4)
    assert np.ravel(found_ids).tolist() == whole[:70].tolist()
    assert np.ravel(found_labels).tolist() == whole[1:71].tolist()


def test_an_epoch_has_each_block_once_in_an_order_of_its_own() -> None:
    data = opened(seed=5)
    # 1350 characters: 192 blocks, 64 batches of 3.
    assert (data.blocks, data.left_out, len(data)) == (192, 0, 64)
    first, second = rows_of(data), rows_of(data, 1)
    assert first != second and sorted(first) == sorted(second)
    assert first == rows_of(opened(seed=5)) and first != rows_of(opened(seed=6))
    assert rows_of(data, 1, start=40) == second[120:]


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_every_batch(ranks: int) -> None:
    alone = rows_of(opened(batch_size=6))
    each = [
        rows_of(opened(batch_size=6 // ranks, rank=rank, rank_size=ranks)) for rank in range(ranks)
    ]
    size = 6 // ranks
    together = [
        row
        for step in range(len(alone) // 6)
        for rows in each
        for row in rows[size * step : size * step + size]
    ]
    assert together == alone
    shares = [opened(split="test", rank=rank, rank_size=ranks) for rank in range(ranks)]
    used = sum(float(used.asnumpy().sum()) for share in shares for _, used in share.evaluation())
    assert used == shares[0].blocks


def test_a_file_plain_or_compressed(tmp_path: Path) -> None:
    text = toy_text(900) + "\u00e9\u2014\U0001f40b"
    (tmp_path / "text.txt").write_bytes(("\ufeff" + text.replace("\n", "\r\n")).encode())
    assert read_text_file(tmp_path / "text.txt") == text
    plain = rows_of(opened(tmp_path))
    (tmp_path / "text.txt").unlink()
    (tmp_path / "text.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert rows_of(opened(tmp_path)) == plain


def test_a_character_that_the_training_part_has_not(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("ab" * 95 + "zz" * 5)
    data = opened(tmp_path, split="test", batch_size=1)
    assert data.unknown == 10 and data.alphabet.characters == "ab"


@pytest.mark.parametrize(
    ("content", "changes", "word"),
    [
        (None, {}, "text.txt' is missing"),
        (b"", {}, "no characters to train on"),
        (b"abc\xff", {}, "byte 4 is not UTF-8"),
        (b"abcabc", {}, "larger than the 0 blocks of 7"),
        (b"ab" * 99, {"batch_size": 26}, "larger than the 25 blocks of 7"),
        (b"ab" * 99, {"batch_size": 0}, "batch_size"),
        (b"ab" * 99, {"block": 0}, "block"),
        (b"ab" * 99, {"split": "dev"}, "'dev'"),
        (b"ab" * 99, {"fingerprint": "0" * 16}, "give that run's text"),
    ],
)
def test_bad_texts_and_arguments_are_one_line(
    tmp_path: Path, content: bytes | None, changes: dict[str, Any], word: str
) -> None:
    (tmp_path / "other.txt").write_text("something")
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(UserError, match=word) as caught:
        opened(tmp_path, **changes)
    assert "\n" not in str(caught.value)
