"""Whatever is wrong with a parallel corpus is said in one line that names it and the remedy."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import pytest
from hostile import changed, changes, line, quick, result
from hypothesis import given
from hypothesis import strategies as st
from parallel import OPTIONS, corpus, opened, sentences, write_pairs

from mindspore_thor.data.text import TextOptions, create_text
from mindspore_thor.data.text import lines as lines_module
from mindspore_thor.data.text.lines import TextFile
from mindspore_thor.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return corpus(tmp_path / "c", train=60)


def refused(words: str, call: Callable[[], Any]) -> None:
    with pytest.raises(UserError, match=words) as caught:
        call()
    line(caught)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train.de", b"eins\nzwei\n", r"train\.en' has 60 lines, but .*train\.de' has 2"),
        ("train.de", b"", r"train\.de' is empty"),
        ("train.en", b"one\ntw\xff\n", r"train\.en', line 2: byte 3 is not UTF-8"),
        ("train.en", b"\n" * 60, "all 60 pairs of .* are blank or longer"),
    ],
)
def test_a_file_that_is_none_of_its_kind(
    folder: Path, name: str, content: bytes, words: str
) -> None:
    opened(folder)
    (folder / name).write_bytes(content)
    refused(words, lambda: opened(folder))  # with the vocabulary that is there
    if "blank" not in words:
        other = folder.with_name("new")
        refused(words, lambda: opened(folder, vocabulary_folder=other))  # while one is trained
        assert not list(other.rglob("*.*"))


def test_a_text_without_a_sentence_trains_no_vocabulary(folder: Path) -> None:
    write_pairs(folder, "train", [("", "")] * 5)
    refused("holds no sentence", lambda: opened(folder))


def test_files_that_are_missing(folder: Path, tmp_path: Path) -> None:
    refused(r"test\.en' is missing.*test_stem names other", lambda: opened(folder, "test"))
    for source, target, found in (("fr", "de", "'fr'"), ("en", "cs", "'cs'")):
        options = replace(OPTIONS, source_language=source, target_language=target)
        refused(
            rf"train' has no language {found}: found de, en; correct source_language",
            lambda options=options: opened(folder, options=options),
        )
    stem = replace(OPTIONS, train_stem="other")
    refused(r"other\.en' is missing", lambda: opened(folder, options=stem))
    refused("does not exist", lambda: opened(tmp_path / "nowhere"))
    refused("needs a data path", lambda: opened(folder, "train") and open_wmt(None, tmp_path))
    write_pairs(tmp_path / "w", "train.tok.clean.bpe.32000", sentences(9))
    refused(r"vocab\.bpe\.32000' is missing", lambda: open_wmt(tmp_path / "w", tmp_path))


def open_wmt(path: Path | None, run: Path) -> Any:
    return create_text("wmt14", path, split="train", batch_size=2, vocabulary_folder=run / "r")


def test_vocabularies_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    def size(number: int) -> TextOptions:
        return replace(OPTIONS, vocab_size=number)

    refused(
        r"vocab_size 5000 is too large for the 60 training pairs: they give \d+ pieces at most",
        lambda: opened(folder, options=size(5000)),
    )
    refused(
        r"vocab_size 9 is too small: .* alone need \d+", lambda: opened(folder, options=size(9))
    )
    opened(folder)
    refused(
        "has 60 pieces, but vocab_size is 61: set it to 60",
        lambda: opened(folder, options=size(61)),
    )
    write_pairs(folder, "train", [("абв где", "жзи клм")] * 9)
    refused(r"does not know \d+ % of the pieces", lambda: opened(folder))
    refused(
        "has no vocabulary, but the checkpoint was trained with one",
        lambda: opened(folder, vocabulary_folder=tmp_path / "new", fingerprint="0" * 16),
    )
    (tmp_path / "file").write_text("")
    refused("cannot", lambda: opened(folder, vocabulary_folder=tmp_path / "file"))


def test_sentences_that_are_all_too_long_and_batches_that_are_too_large(folder: Path) -> None:
    write_pairs(folder, "train", [(f"ba bo du {'mo ' * 20}", "pir su")] * 40)
    options = TextOptions(vocab_size=20, buckets=(4, 6))
    refused(
        r"all 40 pairs of .* longer than the last bucket of 6 \(up to \d+\): raise buckets",
        lambda: opened(folder, options=options),
    )
    corpus(folder, train=60)
    run = folder.with_name("other")
    refused(
        r"batch_size 30 in each of 2 processes is larger than the \d+ training pairs",
        lambda: opened(folder, batch_size=30, rank_size=2, vocabulary_folder=run),
    )


@pytest.mark.parametrize(
    ("changes_", "words"),
    [
        ({"buckets": (16, 8)}, "lengths that grow"),
        ({"buckets": (8, 8)}, "lengths that grow"),
        ({"buckets": ()}, "ascending lengths"),
        ({"buckets": 16}, "ascending lengths"),
        ({"buckets": (1, 8)}, "whole number from 2"),
        ({"buckets": (8, 10**6)}, "whole number from 2"),
        ({"buckets": (8, "x")}, "whole number from 2"),
        ({"vocab_size": 4}, "vocab_size is 4: give a whole number from 5"),
        ({"vocab_size": 8e3}, "vocab_size is 8000.0: give a whole number"),
        ({"source_language": "de"}, "are both 'de'"),
        ({"source_language": "../x"}, "source_language is '../x'"),
        ({"target_language": None}, "target_language is None"),
        ({"valid_stem": "a/b"}, "valid_stem is 'a/b'"),
        ({"train_stem": ""}, "train_stem is ''"),
        ({"character_coverage": float("nan")}, "character_coverage is nan"),
        ({"character_coverage": 0.1}, "character_coverage is 0.1"),
        ({"vocabulary_sentences": 0}, "vocabulary_sentences is 0"),
        ({"sentences": 0}, "sentences is 0"),
        ({"corpus_seed": -1}, "corpus_seed is -1"),
    ],
)
def test_options_that_cannot_be_used(folder: Path, changes_: dict[str, Any], words: str) -> None:
    refused(words, lambda: opened(folder, options=replace(OPTIONS, **changes_)))
    assert not folder.with_name("c-run").exists()


@pytest.mark.parametrize(
    ("changes_", "words"),
    [
        ({"split": "val"}, "split is 'val': use one of train, valid, test"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"rank": 2, "rank_size": 2}, "rank_size is 2: give a whole number from 3"),
    ],
)
def test_arguments_that_cannot_be_used(folder: Path, changes_: dict[str, Any], words: str) -> None:
    refused(words, lambda: opened(folder, **changes_))


def test_an_unknown_data_set(tmp_path: Path) -> None:
    refused(
        "did you mean 'multi30k'",
        lambda: create_text(
            "multi30", tmp_path, split="train", batch_size=1, vocabulary_folder=tmp_path
        ),
    )
    refused(
        "'toy_translation' has no language 'fr'",
        lambda: create_text(
            "toy_translation",
            split="test",
            batch_size=1,
            vocabulary_folder=tmp_path,
            options=TextOptions(source_language="fr"),
        ),
    )


def test_a_line_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "_LONGEST_LINE", 100)
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"short\n" + b"a" * 99 + b"\n" + b"b" * 101))
    found = TextFile(tmp_path / "x.gz").lines()
    assert [next(found), next(found)] == ["short", "a" * 99]
    refused("line 3: longer than 100 bytes", lambda: next(found))


@quick
@given(st.binary(max_size=60), changes, st.booleans())
def test_any_bytes_are_read_as_they_stand_or_refused(
    tmp_path: Path, content: bytes, edits: Any, zipped: bool
) -> None:
    path = tmp_path / ("x.gz" if zipped else "x")
    path.write_bytes(changed(gzip.compress(content), edits) if zipped else content)
    found = result(lambda: list(TextFile(path).lines()))
    if zipped and edits:
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        assert found is None
        return
    expected = text.split("\n")
    if not expected[-1]:
        expected.pop()
    # A file of nothing but a mark has one empty line.
    assert found == [item.strip() for item in expected] or content == b"\xef\xbb\xbf"


@quick
@given(st.lists(st.text(max_size=12), min_size=1, max_size=12), st.integers(5, 40))
def test_any_text_is_opened_or_refused(tmp_path: Path, texts: list[str], size: int) -> None:
    content = "\n".join(text.replace("\n", " ") for text in texts).encode(errors="replace")
    for language in ("en", "de"):
        (tmp_path / f"train.{language}").write_bytes(content + b"\n")
    for path in (tmp_path / "run").glob("*.model"):
        path.unlink()
    data = result(
        lambda: opened(
            tmp_path,
            batch_size=1,
            vocabulary_folder=tmp_path / "run",
            options=TextOptions(vocab_size=size),
        )
    )
    if data is not None:
        assert sum(1 for _ in data.epoch(0)) == len(data) >= 1
