"""The split dimension: the paper's Table 1, properties of the information loss, the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mindspore_thor.tune_split.choice import choose_split, information_loss, preserved_share
from mindspore_thor.tune_split.command import main

# THOR (AAAI 2021), Table 1: ResNet-50 on one Ascend 910.
SPLITS = [1, 16, 32, 64, 128, 256, 512, 1024, 2048]
PRESERVED = [4, 4, 5, 9, 13, 23, 32, 46, 48]
LAYERS = 54
MICROSECONDS = [35, 59, 83, 121, 212, 534, 1418, 3738, 9824]
PRINTED = [1, 0.6014, 0.4276, 0.2939, 0.1669, 0.0664, 0.0250, 0.0095, 0.0036]


@pytest.mark.parametrize("times", [MICROSECONDS, [1 / value for value in PRINTED]])
def test_the_papers_table_gives_128(times: list[float]) -> None:
    shares = [count / LAYERS for count in PRESERVED]
    choice = choose_split(SPLITS, shares, times, times[0])
    assert choice.split == 128
    assert choice.crossing is not None
    assert abs(choice.crossing[0] - 106) <= 3
    assert abs(choice.crossing[1] - 0.21) <= 0.005
    # The printed row was made of unrounded times.
    assert choice.performance == pytest.approx(PRINTED, abs=0.013)


def test_the_crossing_is_where_the_two_lines_meet() -> None:
    # Speed falls from 1 to 0.2, share rises from 0 to 0.4 between 8 and 16: at t the lines are
    # 1 - 0.8 t and 0.4 t, equal at t = 5/6.
    choice = choose_split([8, 16, 32], [0.0, 0.4, 1.0], [1.0, 5.0, 100.0], 1.0)
    assert choice.crossing == pytest.approx((8 + 8 * 5 / 6, 0.4 * 5 / 6))
    assert choice.split == 16


def test_without_a_crossing_an_end_of_the_list_is_chosen() -> None:
    everywhere_preserved = choose_split([4, 8], [1.0, 1.0], [2.0, 4.0], 1.0)
    assert (everywhere_preserved.split, everywhere_preserved.crossing) == (4, None)
    never_preserved = choose_split([4, 8], [0.0, 0.0], [2.0, 4.0], 1.0)
    assert (never_preserved.split, never_preserved.crossing) == (8, None)


@st.composite
def factors(draw: st.DrawFn) -> np.ndarray:
    """Symmetric positive semi-definite, any rank, scales far apart."""
    d = draw(st.integers(1, 24))
    rank = draw(st.integers(1, d))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    half = generator.standard_normal((d, rank)) * generator.lognormal(0, 2, (d, 1))
    return half @ half.T


@settings(max_examples=60, deadline=None)
@given(factors(), st.integers(1, 6), st.integers(1, 6))
def test_loss_is_a_share_that_nested_splits_never_raise(
    factor: np.ndarray, split: int, multiple: int
) -> None:
    fine, coarse = information_loss(factor, split), information_loss(factor, split * multiple)
    assert 0 <= fine < 1
    assert coarse <= fine + 1e-12
    assert information_loss(factor, len(factor)) == 0
    assert information_loss(factor, len(factor) + 1) == 0


def test_loss_of_a_matrix_that_can_be_computed_by_hand() -> None:
    # All ones, 4 x 4: norm 4, its 1 x 1 blocks have norm 1, 2 x 2 blocks 2, 3 + 1 blocks 3.
    ones = np.ones((4, 4))
    assert [information_loss(ones, s) for s in (1, 2, 3)] == pytest.approx([0.75, 0.5, 0.25])
    assert information_loss(np.diag([3.0, 1.0]), 1) == pytest.approx(0)
    assert information_loss(np.zeros((3, 3)), 1) == 0
    # Two groups: the larger one decides both norms.
    assert information_loss(np.stack([ones, 10 * np.eye(4)]), 1) == pytest.approx(0)
    assert preserved_share([ones, np.eye(4)], 2) == 0.5


def test_the_command_measures_prints_and_draws(
    tiny_recipe: Path, mnist_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    arguments = ["--config_path", str(tiny_recipe), "--data_path", str(mnist_folder)]
    arguments += ["--batches", "2", "--list", "1,8,1024,2048", "--output_dir", str(folder)]
    assert main(arguments) == 0
    printed = capfd.readouterr().out
    found = json.loads((folder / "tune_split.json").read_text())
    # 784 inputs: 1024 splits nothing, so 2048 has nothing to add.
    assert found["splits"] == [1, 8, 1024]
    assert set(found["information_loss"]) == {"layers.0", "layers.2"}
    for losses in found["information_loss"].values():
        assert losses[-1] == 0 and 0 <= losses[1] <= losses[0] < 1
    assert found["performance"][0] == 1
    assert found["shares"][-1] == 1
    assert f"recommended: split_dim {found['recommended']}" in printed
    with Image.open(folder / "tune_split.png") as picture:
        picture.load()
        assert min(picture.size) > 300

    # A second run must not write over the first one.
    before = (folder / "tune_split.json").read_bytes()
    assert main(arguments) == 2
    assert "already holds" in capfd.readouterr().err
    assert (folder / "tune_split.json").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--list", "a,b"], "--list"),
        (["--list", "0,8"], "--list"),
        (["--list", "64"], "--list"),
        (["--batches", "0"], "--batches"),
        (["--checkpoint_file_path", "nowhere.ckpt"], "nowhere.ckpt"),
        (["--model.nmae", "x"], "model.name"),
    ],
)
def test_bad_input_is_one_line(
    tiny_recipe: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    flags: list[str],
    word: str,
) -> None:
    arguments = ["--config_path", str(tiny_recipe), "--output_dir", str(tmp_path / "out"), *flags]
    assert main(arguments) == 2
    message = capfd.readouterr().err.strip()
    assert message.startswith("error: ") and "\n" not in message and word in message
    assert not (tmp_path / "out").exists()
