"""Translation data: what is in a batch, resume, ranks, evaluation, and files of every kind."""

from __future__ import annotations

import multiprocessing
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parallel import OPTIONS, corpus, opened, sentences, write_pairs
from sentencepiece import SentencePieceProcessor

from mindspore_thor.data.text import TextData, TextOptions, create_text
from mindspore_thor.data.text import tokens as tokens_module
from mindspore_thor.data.text.lines import TextFile
from mindspore_thor.data.text.tokens import open_tokens
from mindspore_thor.data.text.vocabulary import WordVocabulary


def arrays(data: TextData, epoch: int, start: int = 0) -> list[tuple[Any, Any]]:
    return [(x.asnumpy().tolist(), y.asnumpy().tolist()) for x, y, _ in data.epoch(epoch, start)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("text") / "corpus")


def test_a_batch_holds_pairs_of_the_corpus_with_their_signs(folder: Path) -> None:
    data = opened(folder)
    model = SentencePieceProcessor(model_file=f"{folder}-run/vocabulary.model")
    expected = {}
    too_long = 0
    for source, target in sentences(200, 1):
        one, other = model.encode(source), model.encode(target)
        if max(len(one), len(other)) + 1 > 20:
            too_long += 1
            continue
        bucket = next(b for b in (8, 12, 20) if max(len(one), len(other)) < b)
        expected[tuple(one), tuple(other)] = bucket
    assert too_long > 5 and data.dropped.too_long == too_long
    assert data.dropped.blank == data.dropped.clipped == 0
    assert (len(data), data.dropped.incomplete) == divmod(200 - too_long, 4)
    assert data.size == 4 * len(data) and data.buckets == (8, 12, 20)
    found = []
    for source, target, _ in data.epoch(0):
        assert source.shape[0] == target.shape[0] == 4
        length = source.shape[1]
        assert length in (8, 12, 20) and target.shape[1] == length + 1
        assert str(source.dtype) == str(target.dtype) == "Int32"
        for row, other in zip(source.asnumpy().tolist(), target.asnumpy().tolist()):
            end, other_end = row.index(2), other.index(2)
            assert set(row[end + 1 :]) <= {0} and set(other[other_end + 1 :]) <= {0}
            assert other[0] == 1
            pair = tuple(row[:end]), tuple(other[1:other_end])
            assert expected[pair] <= length
            found.append(pair)
    assert len(found) == data.size and set(found) <= set(expected)
    assert data.batches_of == tuple(
        sum(len(x[0]) == b for x, _ in arrays(data, 5)) for b in (8, 12, 20)
    )


def test_an_epoch_goes_on_from_any_step(folder: Path) -> None:
    data = opened(folder, seed=3)
    whole = arrays(data, 2)
    assert len(whole) == len(data) == data.steps_per_epoch
    again = opened(folder, seed=3)
    for start in (0, 1, 7, len(data)):
        assert arrays(again, 2, start) == whole[start:]
    assert arrays(data, 1) != whole != arrays(opened(folder, seed=4), 2)
    for index, start in ((-1, 0), (0, -1), (0, len(data) + 1)):
        with pytest.raises(ValueError, match="start within 0"):
            data.epoch(index, start)


def test_ranks_share_the_batches_of_one_process(folder: Path) -> None:
    whole = arrays(opened(folder, batch_size=6), 1)
    parts = [arrays(opened(folder, batch_size=2, rank=r, rank_size=3), 1) for r in range(3)]
    for step, batch in enumerate(whole):
        for side in (0, 1):
            assert [row for part in parts for row in part[step][side]] == batch[side]


@pytest.mark.parametrize("ranks", [1, 3])
def test_every_sentence_is_evaluated_once_and_can_be_put_back(folder: Path, ranks: int) -> None:
    pairs = sentences(23, 2)
    found: list[Any] = [None] * len(pairs)
    steps = set()
    for rank in range(ranks):
        data = opened(folder, "valid", rank=rank, rank_size=ranks, batch_size=5)
        batches = list(data.evaluation())
        steps.add(len(batches))
        count = 0
        for batch in batches:
            used = len(batch.indices)
            count += used
            assert batch.used.asnumpy().tolist() == [1.0] * used + [0.0] * (5 - used)
            texts = [data.vocabulary.decode(side.asnumpy()[:used]) for side in batch[:2]]
            for index, *pair in zip(batch.indices, *texts):
                assert found[index] is None
                found[index] = tuple(pair)
        assert data.size == count
        assert [len(batch.indices) for batch in data.evaluation(1)] == [
            len(batch.indices) for batch in batches[1:]
        ]
    assert steps == {-(-23 // (5 * ranks))}
    assert data.sources == [pair[0] for pair in pairs]
    assert data.references == [pair[1] for pair in pairs]
    clipped = data.dropped.clipped
    assert clipped == sum(pair != other for pair, other in zip(pairs, found)) > 0
    for (source, target), (one, other) in zip(pairs, found):
        assert source.startswith(one) and target.startswith(other)


def test_the_training_split_is_not_evaluated(folder: Path) -> None:
    with pytest.raises(ValueError, match="training split is not evaluated"):
        next(opened(folder).evaluation())


def test_the_dataset_for_a_model_runs_through_the_epochs(folder: Path) -> None:
    data = opened(folder)
    passes = data.dataset(1).create_tuple_iterator(num_epochs=2, output_numpy=True)
    for epoch in (1, 2):
        assert [(x.tolist(), y.tolist()) for x, y in passes] == arrays(data, epoch)


def test_compressed_files_give_what_plain_ones_give(folder: Path, tmp_path: Path) -> None:
    zipped = write_pairs(tmp_path / "z", "train", sentences(200, 1), zipped=True)
    write_pairs(zipped, "valid", sentences(23, 2), zipped=True)
    for split in ("train", "valid"):
        assert arrays(opened(zipped, split), 0) == arrays(opened(folder, split), 0)
    assert opened(zipped).vocabulary.fingerprint == opened(folder).vocabulary.fingerprint
    assert opened(zipped, "valid").references == opened(folder, "valid").references


def test_blanks_line_ends_and_a_byte_order_mark_do_not_count(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        content = path.read_bytes().replace(b"\n", b" \t\r\n")
        (tmp_path / path.name).write_bytes(b"\xef\xbb\xbf" + content[:-1])
    run = tmp_path / "run"
    for split in ("train", "valid"):
        assert arrays(opened(tmp_path, split, vocabulary_folder=run), 0) == arrays(
            opened(folder, split), 0
        )


def test_a_side_without_text_is_left_out_in_training_only(tmp_path: Path) -> None:
    pairs = sentences(60, 1)
    pairs[5] = ("", pairs[5][1])
    pairs[9] = ("", " ")
    for stem in ("train", "valid"):
        write_pairs(tmp_path / "c", stem, pairs)
    assert opened(tmp_path / "c").dropped.blank == 2
    data = opened(tmp_path / "c", "valid")
    assert data.size == 60 and data.references[9] == ""


NAMES = {
    "multi30k": ("train", "val", "test_2016_flickr"),
    "wmt14": ("train", "newstest2013", "newstest2014"),
    "parallel_text": ("train", "dev", "test"),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_names_of_the_files(tmp_path: Path, name: str) -> None:
    for seed, stem in enumerate(NAMES[name]):
        write_pairs(tmp_path / "c", stem, sentences(30 + seed, seed))
    for seed, split in enumerate(("train", "valid", "test")):
        data = create_text(
            name,
            tmp_path / "c",
            split=split,
            batch_size=3,
            vocabulary_folder=tmp_path / "run",
            options=replace(OPTIONS, buckets=(40,)),
        )
        assert (data.name, data.split) == (name, split)
        assert data.size == 30 + seed


def test_the_zoos_prepared_files_keep_their_tokens(tmp_path: Path) -> None:
    pairs = [("a ho@@ use", "ein Haus"), ("tw@@ o ho@@ use", "zwei Häus@@ er")] * 4
    for stem in ("train", "newstest2013", "newstest2014"):
        middle = "tok.clean.bpe.32000" if stem == "train" else "tok.bpe.32000"
        write_pairs(tmp_path / "c", f"{stem}.{middle}", pairs)
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        "a",
        "ho@@",
        "use",
        "ein",
        "Haus",
        "zwei",
        "Häus@@",
        "tw@@",
        "o",
        "er",
    ]
    (tmp_path / "c" / "vocab.bpe.32000").write_text("\n".join(tokens) + "\n")

    def prepared(split: str) -> TextData:
        return create_text(
            "wmt14", tmp_path / "c", split=split, batch_size=2, vocabulary_folder=tmp_path / "run"
        )

    data = prepared("train")
    # Four special pieces, then the file's own: "a" is 4.
    assert data.vocabulary.size == 4 + 10 and data.vocabulary.tokenized
    assert data.vocabulary.encode(["a ho@@ use </s>"]) == [[4, 5, 6, 3]]
    assert data.vocabulary.decode([[1, 11, 12, 5, 6, 2, 4]]) == ["two house"]
    assert {str(row) for x, _ in arrays(data, 0) for row in x} == {
        str([4, 5, 6, 2] + [0] * 12),
        str([11, 12, 5, 6, 2] + [0] * 11),
    }
    (tmp_path / "c" / "vocab.bpe.32000").unlink()  # the run keeps its own
    test = prepared("test")
    assert test.references == ["ein Haus", "zwei Häuser"] * 4
    assert test.vocabulary.fingerprint == data.vocabulary.fingerprint


def test_a_mapped_text_is_what_is_held_in_memory(tmp_path: Path, monkeypatch: Any) -> None:
    class Held(TextFile):
        def key(self) -> None:  # type: ignore[override]
            return None

    monkeypatch.setattr(tokens_module, "_LINES", 7)
    words = ("a", "b", "c", "ä")
    write_pairs(tmp_path, "x", [("a b  c", ""), ("", ""), ("ä q", "")] * 9)
    for more in (0, 1 << 16):  # two bytes for a piece, and four
        vocabulary = WordVocabulary([*words, *map(str, range(more))])
        mapped = open_tokens(TextFile(tmp_path / "x.en"), vocabulary, tmp_path / "run", f"{more}")
        held = open_tokens(Held(tmp_path / "x.en"), vocabulary, tmp_path / "run", "none")
        for tokens in (mapped, held):
            assert len(tokens) == 27 and tokens.total == 45 and tokens.unknown == 9
            assert [tokens[i].tolist() for i in range(27)] == [[4, 5, 6], [], [7, 3]] * 9


def test_stored_text_is_made_anew_only_when_something_changed(folder: Path, tmp_path: Path) -> None:
    mine = corpus(tmp_path / "c")
    first = arrays(opened(mine, "valid"), 0)
    stored = tmp_path / "c-run" / "tokens" / "valid.en.tokens"
    made = stored.stat().st_ino
    assert arrays(opened(mine, "valid"), 0) == first and stored.stat().st_ino == made
    content = stored.read_bytes()
    for damaged in (b"", content[:-1], content[: len(content) // 2], b"\0" * 64):
        stored.write_bytes(damaged)
        assert arrays(opened(mine, "valid"), 0) == first
    other = [(target.lower(), source.upper()) for source, target in sentences(23, 2)]
    status = (mine / "valid.en").stat()
    write_pairs(mine, "valid", other)
    os.utime(mine / "valid.en", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert opened(mine, "valid").sources == [pair[0] for pair in other]
    assert arrays(opened(mine, "valid"), 0) != first
    assert list(stored.parent.glob(".*")) == []


def test_a_large_text_is_never_held(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tokens_module, "_LINES", 256)
    path = tmp_path / "x.en"
    path.write_text(f"ba {'o' * 1996}\n" * 8_000)
    tracemalloc.start()
    try:
        tokens = open_tokens(TextFile(path), WordVocabulary(["ba"]), tmp_path / "run", "x")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (len(tokens), tokens.total, tokens[7_999].tolist()) == (8_000, 16_000, [4, 3])
    # 256 lines of 2 KB, twice, and 4 + 8 bytes for each line.
    assert path.stat().st_size == 16e6 and peak < 2.5e6


def _train(folder: str, results: Any) -> None:
    results.put(opened(Path(folder)).vocabulary.fingerprint)


def test_processes_that_come_at_once_get_one_vocabulary(tmp_path: Path) -> None:
    mine = corpus(tmp_path / "c")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=_train, args=(str(mine), results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = {results.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert found == {opened(mine).vocabulary.fingerprint}


def test_a_sample_of_a_large_corpus_trains_the_vocabulary(folder: Path, tmp_path: Path) -> None:
    few = opened(
        folder,
        vocabulary_folder=tmp_path / "a",
        options=replace(OPTIONS, vocabulary_sentences=20),
    )
    pairs = sentences(200, 1)[9::10]  # every tenth pair
    write_pairs(tmp_path / "c", "train", pairs)
    alone = opened(tmp_path / "c")
    assert few.vocabulary.fingerprint == alone.vocabulary.fingerprint
    assert few.vocabulary.fingerprint != opened(folder).vocabulary.fingerprint


def test_languages_may_be_swapped(folder: Path) -> None:
    there = opened(folder, "valid")
    swapped = replace(OPTIONS, source_language="de", target_language="en")
    back = opened(folder, "valid", options=swapped)
    assert (back.sources, back.references) == (there.references, there.sources)
    assert back.languages == ("de", "en")


def test_options_have_defaults_for_each_data_set(tmp_path: Path) -> None:
    data = create_text("toy_translation", split="valid", batch_size=50, vocabulary_folder=tmp_path)
    assert data.vocabulary.size == 1000 and data.buckets == (12, 22) and data.size == 500
    assert data.dropped.clipped == 0
    assert {x.shape[1] for x, _, _ in data.epoch(0)} == {12, 22}
    small = create_text(
        "toy_translation",
        split="train",
        batch_size=8,
        vocabulary_folder=tmp_path,
        options=TextOptions(sentences=40),
    )
    assert small.size == 40 and np.sum(small.batches_of) == 5
