"""The task ``pretrain``: a whole run, its resumption, its evaluation, and what it refuses."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from records import bert_features, example, write_records

import export
import train
from mindspore_thor.data.pretraining.toy import toy_document
from mindspore_thor.run.ckpt_file import load_file

eval_program = importlib.import_module("eval")

RECIPE = """
model: {name: bert, width: 16, hidden: 16, heads: 2, layers: 1, max_length: 24}
data: {name: documents, batch_size: 8, eval_batch_size: 8, sequence_length: 24, vocab_size: 80,
       epoch_batches: 5}
optimizer: {name: thor, damping: 0.1, factor_interval: 2, inverse_interval: 2, rest: adamw,
            rest_learning_rate: 1.0e-2}
learning_rate: {schedule: constant, value: 0.02}
train: {task: pretrain, epochs: 2, seed: 3, keep_checkpoints: 2}
"""


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("recipe")
    for split, number in (("train", 40), ("valid", 6)):
        lines = [line for i in range(number) for line in [*toy_document(1, split, i), ""]]
        (folder / f"{split}.txt").write_text("\n".join(lines))
    (folder / "recipe.yaml").write_text(RECIPE)
    # Graphs are kept, so that what is compiled here twice is compiled once.
    return [
        *("--config_path", str(folder / "recipe.yaml"), "--data_path", str(folder)),
        *("--train.compile_cache", str(folder / "cache")),
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, flags: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train.main([*flags, "--output_dir", str(folder)]) == 0
    return folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_learns(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == {
        *("config.yaml", "curves.png", "metrics.jsonl", "vocabulary.model", "bert_best.ckpt"),
        *(f"bert-{epoch}_5{end}" for epoch in (1, 2) for end in (".ckpt", ".state.ckpt")),
    }
    rows = rows_of(run)
    assert [(row["epoch"], row["step"], row["skipped"]) for row in rows] == [(1, 5, 0), (2, 10, 0)]
    # Untrained, a masked word of V = 80 costs about log 80, a pair log 2.
    untrained = np.log(80) + np.log(2)
    assert 0.8 * untrained < rows[0]["loss"] < 1.2 * untrained
    assert rows[1]["loss"] < rows[0]["loss"]
    assert rows[1]["valid_loss"] < rows[0]["valid_loss"] < 1.2 * untrained
    for name in ("masked_lm_accuracy", "next_sentence_accuracy"):
        assert all(0 <= row[name] <= 1 for row in rows)


def test_a_resumed_run_ends_with_the_same_bits(run: Path, flags: list[str], tmp_path: Path) -> None:
    """With dropout, whose masks come from the data's noise, and with other masked words."""
    resumed = tmp_path / "resumed"
    checkpoint = run / "bert-1_5.ckpt"
    assert train.main([*flags, "--resume_ckpt", str(checkpoint), "--output_dir", str(resumed)]) == 0
    name = "bert-2_5.state.ckpt"
    ended, again = (load_file(folder / name) for folder in (run, resumed))
    assert ended.keys() == again.keys()
    for key, value in ended.items():
        if not isinstance(value, str):
            assert value.asnumpy().tobytes() == again[key].asnumpy().tobytes(), key


def test_eval_repeats_the_end_of_the_run(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert eval_program.main(["--checkpoint_file_path", str(run / "bert-2_5.ckpt")]) == 0
    printed = capfd.readouterr().out.splitlines()[-1]
    found = re.fullmatch(
        r"result: \{'masked_lm_accuracy': ([\d.]+), 'next_sentence_accuracy': ([\d.]+), "
        r"'valid_loss': ([\d.]+)\} ckpt= .*",
        printed,
    )
    assert found is not None, printed
    row = rows_of(run)[-1]
    names = ("masked_lm_accuracy", "next_sentence_accuracy", "valid_loss")
    np.testing.assert_allclose(
        [float(x) for x in found.groups()], [row[n] for n in names], atol=2e-6
    )


def test_a_file_of_two_outputs_is_refused(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert export.main(["--checkpoint_file_path", str(run / "bert-2_5.ckpt")]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: Bert has 2 outputs") and error.count("\n") == 1
    assert not list(run.glob("*.mindir"))


def records(folder: Path, number: int = 8, **options: int) -> Path:
    for name in ("part-00000-of-00001", "eval_10k"):
        write_records(
            folder / name, [example(bert_features(i, length=24, **options)) for i in range(number)]
        )
    return folder


REFUSED: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "model": (["--model", "{name: mlp}"], ("mlp", "BERT")),
    "translator": (["--model", "{name: transformer_tiny}"], ("transformer_tiny", "BERT")),
    "share": (["--data.masked_share", "1.5"], ("data.masked_share", "1.5")),
    "vocabulary": (["--data.vocab_size", "9000"], ("vocab_size 9000", "too large")),
    "folder": (["--data_path", "/nowhere"], ("/nowhere",)),
    "valid": (["--data.valid_files", "x*"], ("x*", "valid_files")),
    "length": (
        ["--data.sequence_length", "48", "--train.epochs", "1"],
        ("48 tokens", "model.max_length is 24"),
    ),
    "records": (["--data.name", "mlperf_bert", "--data.train_files", "train.txt"], ("train.txt",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line(
    case: str, flags: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    more, words = REFUSED[case]
    assert train.main([*flags, "--output_dir", str(tmp_path / "run"), *more]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and len(error) <= 308
    assert all(word in error for word in words), error


def test_ids_beyond_the_vocabulary_are_refused(
    flags: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    where = records(tmp_path, vocab=500)
    data = f"{{name: mlperf_bert, path: {where}, batch_size: 4, vocab_size: 80}}"
    more = ["--data", data, "--output_dir", str(tmp_path / "run")]
    assert train.main([*flags[:2], *more]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and "outside of 0 to 79" in error
