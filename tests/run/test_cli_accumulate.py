"""``train.accumulate`` on the command line: micro-batches that make one larger batch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mindspore import load_checkpoint

import train
from mindspore_thor.run.checkpoint import find_checkpoint


@pytest.mark.slow
def test_micro_batches_train_like_the_batch_that_they_make(
    tiny_recipe: Path, mnist_folder: Path, tmp_path: Path
) -> None:
    """40 images: two updates of two micro-batches of 10, and two of 20, in every epoch."""
    found = []
    for name, flags in (
        ("micro", ["--train.accumulate", "2"]),
        ("whole", ["--data.batch_size", "20"]),
    ):
        folder = tmp_path / name
        where = ["--config_path", str(tiny_recipe), "--data_path", str(mnist_folder)]
        assert train.main([*where, "--output_dir", str(folder), *flags]) == 0
        found.append(load_checkpoint(str(find_checkpoint(folder))))
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [row["epoch"] for row in rows] == [1, 2]
    micro, whole = found
    assert set(micro) == set(whole)
    for key, value in whole.items():
        np.testing.assert_allclose(
            micro[key].asnumpy(), value.asnumpy(), rtol=1e-4, atol=2e-6, err_msg=key
        )


def test_an_epoch_of_half_an_update_is_refused(
    tiny_recipe: Path, mnist_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--config_path", str(tiny_recipe), "--data_path", str(mnist_folder)]
    folder = tmp_path / "run"
    assert train.main([*where, "--output_dir", str(folder), "--train.accumulate", "3"]) == 2
    error = capsys.readouterr().err
    assert error == (
        "error: train.accumulate is 3, which does not divide the 4 batches of an epoch: use one of "
        "1, 2, 4, or another data.batch_size\n"
    )
    assert not folder.exists()
