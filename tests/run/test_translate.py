"""The task ``translate``: a whole run, its resumption, its evaluation, and what it refuses."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
from mindspore import Tensor, nn

import models
import train
from mindspore_thor.data.text.toy import toy_pair
from mindspore_thor.run.build import build_session
from mindspore_thor.run.ckpt_file import load_file
from mindspore_thor.run.config import load_config
from mindspore_thor.run.translation import TokenLosses

eval_program = importlib.import_module("eval")

RECIPE = """
model: {name: transformer, width: 8, hidden: 8, heads: 2, encoder_layers: 1, decoder_layers: 1,
        dropout: 0.1, max_length: 64}
data: {name: parallel_text, batch_size: 12, eval_batch_size: 8, vocab_size: 120, buckets: [60],
       search_length: 24, beam: 2}
optimizer: {name: thor, damping: 0.1, factor_interval: 2, inverse_interval: 2, rest: adamw,
            rest_learning_rate: 1.0e-2}
learning_rate: {schedule: noam, d_model: 8, warmup_steps: 4, factor: 0.1}
train: {task: translate, epochs: 2, label_smoothing: 0.1, seed: 3, keep_checkpoints: 2}
"""
COUNTS = {"train": 50, "valid": 9, "test": 10}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for split, count in COUNTS.items():
        pairs = [toy_pair(5, split, index) for index in range(count)]
        for side, language in enumerate(("en", "de")):
            text = "".join(f"{pair[side]}\n" for pair in pairs)
            (folder / f"{split}.{language}").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> list[str]:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "recipe.yaml").write_text(RECIPE)
    # Graphs are kept, so that what is compiled here twice is compiled once.
    return [
        *("--config_path", str(folder / "recipe.yaml"), "--data_path", str(corpus)),
        *("--train.compile_cache", str(folder / "cache")),
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, flags: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train.main([*flags, "--output_dir", str(folder)]) == 0
    return folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def test_a_run_leaves_its_vocabulary_and_what_it_translated(run: Path, corpus: Path) -> None:
    assert {path.name for path in run.iterdir()} == {
        *("config.yaml", "curves.png", "metrics.jsonl", "vocabulary.model"),
        *("hypotheses.valid.txt", "hypotheses.test.txt", "transformer_best.ckpt"),
        *(f"transformer-{epoch}_4{end}" for epoch in (1, 2) for end in (".ckpt", ".state.ckpt")),
    }
    rows = rows_of(run)
    assert [(row["epoch"], row["step"], row["skipped"]) for row in rows] == [(1, 4, 0), (2, 8, 0)]
    hypotheses = lines_of(run / "hypotheses.valid.txt")
    references = lines_of(corpus / "valid.de")
    assert len(hypotheses) == COUNTS["valid"]
    assert len(lines_of(run / "hypotheses.test.txt")) == COUNTS["test"]
    assert rows[-1]["bleu"] == sacrebleu.corpus_bleu(hypotheses, [references]).score
    assert rows[-1]["chrf"] == sacrebleu.corpus_chrf(hypotheses, [references]).score
    # Untrained, a token of V = 120 costs about log 120.
    assert 0.5 * np.log(120) < rows[0]["valid_loss"] < 1.5 * np.log(120)
    assert rows[1]["valid_loss"] < rows[0]["valid_loss"]


def test_a_resumed_run_ends_with_the_same_bits(
    run: Path, flags: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With dropout: its masks come from the data's noise. All graphs are those of the first run."""
    resumed = tmp_path / "resumed"
    checkpoint = run / "transformer-1_4.ckpt"
    assert train.main([*flags, "--resume_ckpt", str(checkpoint), "--output_dir", str(resumed)]) == 0
    told = [line for line in capfd.readouterr().out.splitlines() if line.startswith("graphs: ")]
    counts = [re.match(r"graphs: (\d+) from the compile cache, ", line) for line in told]
    # Three passes, refresh and update; the losses, and the search's two.
    assert [int(found[1]) for found in counts if found] == [3, 1, 3] and len(told) == 3
    name = "transformer-2_4.state.ckpt"
    ended, again = (load_file(folder / name) for folder in (run, resumed))
    assert ended.keys() == again.keys()
    for key, value in ended.items():
        if not isinstance(value, str):
            assert value.asnumpy().tobytes() == again[key].asnumpy().tobytes(), key
    for name in ("hypotheses.valid.txt", "hypotheses.test.txt", "vocabulary.model"):
        assert (run / name).read_bytes() == (resumed / name).read_bytes(), name


def test_eval_repeats_the_end_of_the_run(
    run: Path, flags: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    where = ["--checkpoint_file_path", str(run / "transformer-2_4.ckpt")]
    assert eval_program.main(where) == 0
    printed = capfd.readouterr().out.splitlines()
    assert printed[-2].startswith("signature: nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|")
    found = re.fullmatch(r"result: \{'bleu': ([\d.]+), 'chrf': ([\d.]+), .*", printed[-1])
    assert found is not None
    hypotheses = lines_of(run / "hypotheses.test.txt")
    corpus = Path(flags[3])
    score = sacrebleu.corpus_bleu(hypotheses, [lines_of(corpus / "test.de")]).score
    assert float(found[1]) == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize(("interval", "length"), [(5, 60), (4, 30)])
def test_rare_statistics_are_collected_in_fewer_lengths(
    interval: int, length: int, corpus: Path, tmp_path: Path
) -> None:
    """With buckets of 30 and 60, a batch of 30."""
    recipe = tmp_path / "recipe.yaml"
    text = RECIPE.replace("factor_interval: 2", f"factor_interval: {interval}")
    recipe.write_text(text.replace("buckets: [60]", f"buckets: [30, 60], path: {corpus}"))
    step = build_session(load_config(recipe, models), models).step
    ids = Tensor(np.ones((12, 30), np.int32))
    noise = Tensor(np.ones(12, np.int32))
    assert step.collected((ids, ids, noise, ids))[0].shape == (12, length)


def change(folder: Path, content: bytes, *names: str) -> list[str]:
    for name in names:
        (folder / name).write_bytes(content)
    return []


REFUSED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "lines": (lambda f: change(f, b"eins\n", "train.de"), ("train.de", "50", "1")),
    "empty": (lambda f: change(f, b"", "train.en", "train.de"), ("train.en",)),
    "utf8": (lambda f: change(f, b"a\n\xff\n" + 7 * b"b\n", "valid.en"), ("valid.en", "2")),
    "long": (lambda f: ["--data.buckets", "[2]"], ("buckets",)),
    "language": (lambda f: ["--data.source_language", "fr"], ("fr", "en")),
    "beam": (lambda f: ["--data.beam", "0"], ("data.beam", "1")),
    "falling": (lambda f: ["--data.buckets", "[20, 10]"], ("data.buckets", "rising")),
    "vocabulary": (lambda f: ["--data.vocab_size", "9000"], ("vocab_size", "9000")),
    "fingerprint": (lambda f: ["--data.fingerprint", "0123456789abcdef"], ("fingerprint", "null")),
    "model": (lambda f: ["--model", "{name: mlp}"], ("mlp", "Transformer")),
    "task": (lambda f: ["--train.task", "classify"], ("data.",)),
    "folder": (lambda f: ["--data_path", "/nowhere"], ("/nowhere",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line(
    case: str, flags: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil, words = REFUSED[case]
    folder = shutil.copytree(flags[3], tmp_path / "corpus")
    more = spoil(folder)
    own = [*flags[:2], "--data_path", str(folder), "--output_dir", str(tmp_path / "run")]
    assert train.main([*own, *more]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and len(error) <= 308
    assert all(word in error for word in words), error
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_wants_its_own_vocabulary(
    run: Path, flags: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("transformer-2_4.ckpt", "config.yaml"):
        shutil.copyfile(run / name, alone / name)
    where = ["--checkpoint_file_path", str(alone / "transformer-2_4.ckpt")]
    assert eval_program.main(where) == 2
    assert "no vocabulary beside the checkpoint" in capfd.readouterr().err
    # One of the same size, from other text.
    other = tmp_path / "other"
    text = shutil.copytree(flags[3], tmp_path / "text")
    for name in ("train.en", "train.de"):
        lines = [line[::-1] for line in lines_of(text / name)]
        (text / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    from mindspore_thor.data.text.factory import create_text
    from mindspore_thor.data.text.options import TextOptions

    options = TextOptions(vocab_size=120, buckets=(60,))
    create_text(
        "parallel_text", text, split="train", batch_size=2, vocabulary_folder=other, options=options
    )
    shutil.copyfile(other / "vocabulary.model", alone / "vocabulary.model")
    assert eval_program.main(where) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and "is not the vocabulary" in error


class Logits(nn.Cell):
    """The same logits for every batch."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.logits = Tensor(logits.astype(np.float32))

    def construct(self, source: Tensor, target: Tensor) -> Tensor:
        return self.logits


def test_the_validation_loss_counts_real_tokens_of_used_rows() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (3, 4, 6))
    labels = np.array([[4, 5, 2, 0], [3, 2, 0, 0], [5, 5, 5, 2]])
    used = np.array([1.0, 1.0, 0.0])
    shifted = logits - logits.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    expected = -sum(logs[n, t, labels[n, t]] for n in (0, 1) for t in range(4) if labels[n, t])
    ids = Tensor(labels.astype(np.int32))
    found = TokenLosses(Logits(logits))(ids, ids, ids, Tensor(used.astype(np.float32))).asnumpy()
    np.testing.assert_allclose(found, [expected, 5.0], rtol=1e-5)
