"""Vocabularies: round trips, fingerprints, and files that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hostile import changed, changes, line, quick, result
from hypothesis import given
from hypothesis import strategies as st
from parallel import WORDS, corpus, opened

from mindspore_thor.data.text import Vocabulary, open_vocabulary
from mindspore_thor.data.text.vocabulary import (
    SentencePieceVocabulary,
    WordVocabulary,
    read_words,
    write_words,
)
from mindspore_thor.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    mine = corpus(tmp_path_factory.mktemp("vocabulary") / "c")
    opened(mine)
    return mine.with_name("c-run")


@pytest.fixture(scope="module")
def vocabulary(folder: Path) -> Vocabulary:
    found = open_vocabulary(folder)
    assert found is not None
    return found


@given(st.lists(st.sampled_from([*WORDS, *(word.upper() for word in WORDS)]), max_size=9))
def test_text_comes_back_as_it_was(vocabulary: Vocabulary, words: list[str]) -> None:
    text = " ".join(words)
    pieces = vocabulary.encode([text])[0]
    assert all(3 < piece < vocabulary.size == 60 for piece in pieces)
    noisy = [1, *pieces, 2, 0, 0, 7]  # with start and end sign, padding, and what follows them
    assert vocabulary.decode([pieces, noisy, [0]]) == [text, text, ""]


@given(st.text(max_size=40))
def test_any_text_can_be_encoded(vocabulary: Vocabulary, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return  # lines of a file are never such
    pieces = vocabulary.encode([text])[0]
    assert all(3 <= piece < 60 for piece in pieces)
    vocabulary.decode([pieces])


def test_a_piece_out_of_range_is_refused(vocabulary: Vocabulary) -> None:
    for piece in (-1, 60):
        with pytest.raises(ValueError, match=f"piece {piece} is not in a vocabulary of 60"):
            vocabulary.decode([[4, piece]])


def test_the_fingerprint_tells_pieces_not_files(folder: Path, tmp_path: Path) -> None:
    again = corpus(tmp_path / "elsewhere")
    one, other = (open_vocabulary(folder), opened(again).vocabulary)
    assert one is not None and one.fingerprint == other.fingerprint
    assert len(one.fingerprint) == 16 and int(one.fingerprint, 16) >= 0
    words = WordVocabulary(["a", "b"])
    assert words.fingerprint == WordVocabulary(["<s>", "a", "b", "a"]).fingerprint
    others = (["b", "a"], ["a"], ["ab"], ["a", "b", "c"])
    assert len({words.fingerprint, *(WordVocabulary(o).fingerprint for o in others)}) == 5


def test_a_checkpoints_vocabulary_is_checked(folder: Path, tmp_path: Path) -> None:
    known = open_vocabulary(folder)
    assert known is not None
    again = open_vocabulary(folder, known.fingerprint)
    assert again is not None and again.size == 60
    with pytest.raises(UserError, match="is not the vocabulary 0123456789abcdef") as caught:
        open_vocabulary(folder, "0123456789abcdef")
    line(caught)
    assert open_vocabulary(tmp_path) is None


@quick
@given(st.booleans(), changes)
def test_a_damaged_model_is_read_or_refused(
    folder: Path, tmp_path: Path, empty: bool, edits: Any
) -> None:
    content = (folder / "vocabulary.model").read_bytes()
    (tmp_path / "x.model").write_bytes(b"" if empty else changed(content, edits))
    found = result(lambda: SentencePieceVocabulary(tmp_path / "x.model"))
    if found is not None:
        assert not empty and found.size > 4
    elif not empty and not edits:
        pytest.fail("a sound model is refused")


def test_a_model_with_other_special_pieces_is_refused(tmp_path: Path) -> None:
    import sentencepiece

    (tmp_path / "text").write_text("ba bo du fela\n" * 9)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "vocabulary"),
        vocab_size=20,
        model_type="bpe",
        minloglevel=2,
    )
    with pytest.raises(UserError, match=r"\(-1, 1, 2, 0\), not 0, 1, 2, 3") as caught:
        open_vocabulary(tmp_path)
    line(caught)


def test_a_list_of_words_is_written_and_read(tmp_path: Path) -> None:
    words = WordVocabulary(["ä@@", "b", "▁"])
    write_words(words, tmp_path / "vocabulary.words")
    found = open_vocabulary(tmp_path, words.fingerprint)
    assert isinstance(found, WordVocabulary) and found.tokens == words.tokens
    (tmp_path / "vocabulary.words").write_bytes(b"a\n\xff\n")
    for content, words_of_it in ((b"a\n\xff\n", "is not UTF-8"), (b"\n<s>\n", "holds no token")):
        (tmp_path / "vocabulary.words").write_bytes(content)
        with pytest.raises(UserError, match=words_of_it) as caught:
            read_words(tmp_path / "vocabulary.words")
        line(caught)
