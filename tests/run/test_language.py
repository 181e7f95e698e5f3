"""The task ``language``: a whole run, its resumption, its evaluation, and what it refuses."""

from __future__ import annotations

import importlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

import train
from mindspore_thor.data.language.text import Alphabet, split_of, toy_text
from mindspore_thor.run.ckpt_file import load_file

eval_program = importlib.import_module("eval")

RECIPE = """
model: {name: language_model, width: 16, hidden: 16, heads: 2, layers: 1, dropout: 0.1}
data: {name: plain_text, batch_size: 8, eval_batch_size: 4, block: 12}
optimizer: {name: thor, damping: 0.1, factor_interval: 2, inverse_interval: 2, grafting: adamw,
            rest: adamw}
learning_rate: {schedule: constant, value: 0.02}
train: {task: language, epochs: 2, seed: 3, keep_checkpoints: 2}
"""
CHARACTERS = 3000


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "text.txt").write_text(toy_text(CHARACTERS))
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
    # 2700 characters: 224 blocks of 12, 28 batches of 8.
    assert {path.name for path in run.iterdir()} == {
        *("config.yaml", "curves.png", "metrics.jsonl", "language_model_best.ckpt"),
        *(
            f"language_model-{epoch}_28{end}"
            for epoch in (1, 2)
            for end in (".ckpt", ".state.ckpt")
        ),
    }
    rows = rows_of(run)
    assert [(row["step"], row["skipped"]) for row in rows] == [(28, 0), (56, 0)]
    for row in rows:
        assert row["bits_per_character"] == pytest.approx(row["valid_loss"] / math.log(2))
    # Untrained, a character of V costs about log V; what comes out is less than guessing at random.
    guessing = math.log(len(set(split_of(toy_text(CHARACTERS), "train"))))
    assert rows[1]["valid_loss"] < rows[0]["valid_loss"] < guessing
    assert rows[1]["loss"] < rows[0]["loss"]


def test_a_resumed_run_ends_with_the_same_bits(run: Path, flags: list[str], tmp_path: Path) -> None:
    """With dropout, whose masks come from the data's noise."""
    resumed = tmp_path / "resumed"
    checkpoint = run / "language_model-1_28.ckpt"
    assert train.main([*flags, "--resume_ckpt", str(checkpoint), "--output_dir", str(resumed)]) == 0
    name = "language_model-2_28.state.ckpt"
    ended, again = (load_file(folder / name) for folder in (run, resumed))
    assert ended.keys() == again.keys()
    for key, value in ended.items():
        if not isinstance(value, str):
            assert value.asnumpy().tobytes() == again[key].asnumpy().tobytes(), key


def test_eval_reads_the_test_split(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert eval_program.main(["--checkpoint_file_path", str(run / "language_model-2_28.ckpt")]) == 0
    printed = capfd.readouterr().out.splitlines()[-1]
    found = re.fullmatch(
        r"result: \{'bits_per_character': ([\d.]+), 'valid_loss': ([\d.]+)\} ckpt= .*", printed
    )
    assert found is not None, printed
    bits, loss = map(float, found.groups())
    assert bits == pytest.approx(loss / math.log(2), abs=2e-6)
    assert loss != pytest.approx(rows_of(run)[-1]["valid_loss"], abs=1e-4)


def test_another_text_is_refused_for_a_checkpoint(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("xyz" * 1000)
    flags = ["--checkpoint_file_path", str(run), "--data_path", str(tmp_path)]
    assert eval_program.main(flags) == 2
    error = capfd.readouterr().err
    alphabet = Alphabet(split_of(toy_text(CHARACTERS), "train"))
    assert alphabet.fingerprint in error and "give that run's text" in error


REFUSED: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "model": (["--model", "{name: mlp}"], ("mlp", "language_model")),
    "bert": (["--model", "{name: bert}"], ("bert", "language_model")),
    "context": (["--model.context", "8"], ("model.context is 8", "12 characters")),
    "block": (["--data.block", "0"], ("data.block", "0")),
    "long": (["--data.block", "4000"], ("0 blocks of 4000", "batch_size")),
    "text": (["--data.name", "mobi_dick"], ("mobi_dick", "moby_dick")),
    "folder": (["--data_path", "/nowhere"], ("/nowhere",)),
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
    assert not (tmp_path / "run").exists()
