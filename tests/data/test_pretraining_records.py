"""TFRecord files: what is read is what was written, in any order; damaged ones are one line."""

from __future__ import annotations

from pathlib import Path

import mindspore.dataset as ds
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import bert_features, crc32c, example, write_records

from mindspore_thor.data.pretraining import create_pretraining
from mindspore_thor.data.pretraining.example import parse_example
from mindspore_thor.data.pretraining.options import PretrainingOptions
from mindspore_thor.data.pretraining.records import FIELDS, RecordSamples
from mindspore_thor.data.pretraining.tfrecord import RecordFile
from mindspore_thor.errors import UserError

whole = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20)
numbers = st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20)


@given(whole, numbers, st.binary(max_size=20), st.booleans())
def test_an_example_is_read_as_it_was_written(
    integers: list[int], floats: list[float], text: bytes, packed: bool
) -> None:
    found = parse_example(example({"i": integers, "f": floats, "b": text}, packed))
    assert set(found) == {"i", "f"}
    assert found["i"].dtype == np.int64 and found["i"].tolist() == integers
    assert found["f"].dtype == np.float32 and found["f"].tolist() == floats


@given(st.binary(max_size=60))
def test_any_bytes_are_numbers_or_a_value_error(content: bytes) -> None:
    try:
        parse_example(content)
    except ValueError:
        return


def test_the_tests_own_checksum() -> None:
    """The value of RFC 3720, appendix B.4, for 32 bytes of zeros."""
    assert crc32c(bytes(32)) == 0x8A9136AA


def folder_with(tmp_path: Path, counts: tuple[int, ...] = (5, 1, 4), **options: int) -> Path:
    start = 0
    for part, count in enumerate(counts):
        rows = [example(bert_features(start + i, **options)) for i in range(count)]
        write_records(tmp_path / f"part-{part:05d}-of-00003", rows)
        start += count
    write_records(tmp_path / "eval_10k", [example(bert_features(90 + i)) for i in range(3)])
    return tmp_path


def test_records_are_mindspores_in_any_order(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    paths = sorted(folder.glob("part-*"))
    samples = RecordSamples(paths, 50, tmp_path / "index")
    theirs = ds.TFRecordDataset(
        [str(path) for path in paths], shuffle=False, num_parallel_workers=1
    )
    rows = list(theirs.create_dict_iterator(num_epochs=1, output_numpy=True))
    assert len(samples) == len(rows) == 10
    # MindSpore may read the files in another order: compare by content.
    written = {tuple(row["input_ids"].tolist()): row for row in rows}
    for index in (9, 0, 5, 4, 6):
        sample, features = samples.sample(3, index), bert_features(index)
        assert all(
            written[tuple(sample.ids.tolist())][name].tolist() == features[name] for name in FIELDS
        )
        assert sample.ids.tolist() == features["input_ids"]
        assert sample.segments.tolist() == features["segment_ids"]
        assert sample.mask.tolist() == features["input_mask"]
        assert sample.positions.tolist() == features["masked_lm_positions"]
        count = int(sum(features["masked_lm_weights"]))
        expected = [*features["masked_lm_ids"][:count], *[-1] * (3 - count)]
        assert sample.labels.tolist() == [*expected, *features["next_sentence_labels"]]
    # The places are found again, and not believed when the file is another one.
    kept = sorted((tmp_path / "index").iterdir())
    assert len(kept) == 3
    assert RecordFile(paths[0], tmp_path / "index").read(4) == samples._files[0].read(4)
    write_records(paths[0], [b"other"])
    assert RecordFile(paths[0], tmp_path / "index").read(0) == b"other"


def batches(folder: Path, rank: int = 0, ranks: int = 1, size: int = 4, **more) -> list[list]:
    data = create_pretraining(
        "mlperf_bert", folder, train=True, batch_size=size, folder=folder / "w", seed=7,
        options=PretrainingOptions(vocab_size=50, **more), rank=rank, rank_size=ranks,
    )  # fmt: skip
    return [[row.asnumpy().tolist() for row in batch] for e in (0, 1) for batch in data.epoch(e)]


def test_an_epoch_of_few_batches_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    whole = batches(folder)  # two passes of two batches
    short = batches(folder, epoch_batches=1)  # two epochs of one
    assert len(whole) == 4 and short == whole[:2]
    assert whole[:2] != whole[2:]
    for part in (whole[:2], whole[2:]):
        ids = [tuple(row) for batch in part for row in batch[0]]
        assert len(set(ids)) == 8
    # Two ranks see what one process sees.
    ranks = [batches(folder, rank, 2, 2) for rank in (0, 1)]
    assert [[a + b for a, b in zip(x, y)] for x, y in zip(*ranks)] == whole


def test_the_evaluation_has_every_record_once(tmp_path: Path) -> None:
    data = create_pretraining(
        "mlperf_bert", folder_with(tmp_path), train=False, batch_size=2, folder=tmp_path / "w",
        options=PretrainingOptions(vocab_size=50),
    )  # fmt: skip
    rows = [
        batch.ids.asnumpy()[n].tolist()
        for batch, used in data.evaluation()
        for n in np.flatnonzero(used.asnumpy())
    ]
    assert rows == [bert_features(90 + i)["input_ids"] for i in range(3)]


def spoil(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: spoil(path, 3), ("part-00001", "record 0 is damaged or cut")),
        (lambda path: spoil(path, 9), ("record 0 is damaged or cut", "fetch it again")),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), ("record 0 is damaged or cut",)),
        (lambda path: path.write_bytes(b""), ("part-00001", "is empty")),
        (lambda path: write_records(path, [b"text"]), ("record 0 has something else",)),
        (lambda path: write_records(path, [example({"input_ids": [1]})]), ("no segment_ids",)),
        (
            lambda path: write_records(path, [example(bert_features(0, vocab=500))]),
            ("record 0 has", "outside of 0 to 49", "vocab_size"),
        ),
        (
            lambda path: write_records(path, [example(bert_features(0, length=9))]),
            ("9 input_ids, not 8",),
        ),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, change, words: tuple[str, ...]) -> None:
    folder = folder_with(tmp_path)
    change(folder / "part-00001-of-00003")
    with pytest.raises(UserError) as caught:
        batches(folder, size=10)
    message = str(caught.value)
    assert "\n" not in message and len(message) <= 300
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sequence_length": 16}, ("sequence_length is 16", "have 8", "null")),
        ({"train_files": "none-*"}, ("none-*", "train_files")),
        ({"epoch_batches": 0}, ("epoch_batches is 0", "from 1")),
    ],
)
def test_a_bad_option_is_one_line(tmp_path: Path, options, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        batches(folder_with(tmp_path), **options)
    assert all(word in str(caught.value) for word in words), str(caught.value)
