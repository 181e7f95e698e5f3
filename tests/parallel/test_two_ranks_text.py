"""The task ``translate`` on two processes: its resumption.

What is peculiar to it: the order of its batches, vocabulary, dropout's numbers, tokens of two
ranks. A method's own state on ranks is tested with images, and in ``test_ranks_equality``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from mindspore_thor.data.text.toy import toy_pair
from mindspore_thor.run.ckpt_file import load_file

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux"),
]

# One length per sentence in a bucket of 60: the two ranks have different numbers of tokens.
RECIPE = """
model: {name: transformer, width: 8, hidden: 8, heads: 2, encoder_layers: 1, decoder_layers: 1,
        dropout: 0.1, max_length: 64}
data: {name: parallel_text, batch_size: 8, eval_batch_size: 8, vocab_size: 120, buckets: [60],
       search_length: 8, beam: 1}
optimizer: {name: adamw}
learning_rate: {schedule: constant, value: 0.01}
train: {task: translate, epochs: 2, seed: 3, keep_checkpoints: 2}
"""


def _train(folder: Path, output: str, *more: str) -> Path:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mindspore_thor.launch.command"),
            *("--log_dir", str(folder / f"{output}_logs"), "2", str(ROOT / "train.py")),
            *("--config_path", str(folder / "recipe.yaml"), "--data_path", str(folder)),
            *("--output_dir", str(folder / output), *more),
        ],
        cwd=ROOT,
        env=dict(os.environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / output


def test_a_run_of_two_ranks_is_resumed_to_the_bit(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    for split, count in {"train": 34, "valid": 4, "test": 4}.items():
        pairs = [toy_pair(5, split, index) for index in range(count)]
        for side, language in enumerate(("en", "de")):
            text = "".join(f"{pair[side]}\n" for pair in pairs)
            (tmp_path / f"{split}.{language}").write_text(text, encoding="utf-8")
    whole = _train(tmp_path, "whole")
    first = next(whole.glob("transformer-1_*[0-9].ckpt"))
    resumed = _train(tmp_path, "resumed", "--resume_ckpt", str(first))
    (name,) = (path.name for path in whole.glob("transformer-2_*.state.ckpt"))
    ended, again = (load_file(run / name) for run in (whole, resumed))
    begun = load_file(first.with_suffix(".state.ckpt"))
    assert ended.keys() == again.keys()
    moved = 0
    for key, value in ended.items():
        if not isinstance(value, str):
            assert value.asnumpy().tobytes() == again[key].asnumpy().tobytes(), key
            moved += value.asnumpy().tobytes() != begun[key].asnumpy().tobytes()
    assert moved > 20
    file = "hypotheses.valid.txt"
    assert (whole / file).read_bytes() == (resumed / file).read_bytes()
