"""The papers' pictures: what is recorded, and that stored recordings are drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.harness.spec import RESULTS, ROOT
from benchmarks.paper_figures import main
from benchmarks.papers.experiments import EXPERIMENTS, lngd_fisher


@pytest.mark.slow
def test_lngds_factors_have_the_trace_and_the_partial_trace_of_the_exact_block() -> None:
    data = lngd_fisher(1)
    exact, approximate = np.array(data["exact"]), np.array(data["approximate"])
    assert exact.shape == approximate.shape == (104, 104)
    # methods.md section 3.2: tr(Psi) = 1 and tr(Phi) = tr(F); the sum over output units of F's
    # diagonal blocks is Phi.
    np.testing.assert_allclose(np.trace(approximate), np.trace(exact), rtol=1e-4)
    blocks = (matrix.reshape(8, 13, 8, 13) for matrix in (exact, approximate))
    sums = [np.einsum("uiuj->ij", block) for block in blocks]
    np.testing.assert_allclose(sums[1], sums[0], rtol=1e-3, atol=1e-4 * np.abs(sums[0]).max())
    # And yet they differ: the exact block does not factorise.
    assert np.linalg.norm(exact - approximate) > 1e-2 * np.linalg.norm(exact)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_stored_runs_are_drawn(name: str, tmp_path: Path) -> None:
    assert main([name, "--draw_only", "--figures_dir", str(tmp_path)]) == 0
    with Image.open(tmp_path / f"{name}.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert min(pixels.shape) > 300
    assert pixels.min() < 100 and pixels.max() == 255


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["thor"], "error: unknown picture 'thor': use some of thor_factors, "),
        (["--epochs", "1"], "error: --epochs is 1; give a whole number of at least 2"),
        (["--draw_only"], "error: {results}/thor_factors.json: no such file; run without"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--results_dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(message.format(results=tmp_path))
    assert error.count("\n") == 1


def test_the_page_quotes_the_stored_runs() -> None:
    page = " ".join((ROOT / "docs" / "papers.md").read_text(encoding="utf-8").split())
    stored = {
        name: json.loads((RESULTS / "paper_figures" / f"{name}.json").read_text(encoding="utf-8"))
        for name in EXPERIMENTS
    }
    changes = []
    for layer in stored["thor_factors"]["layers"].values():
        trace = np.array(layer["trace"])
        changes.append(np.abs(np.diff(trace)) / trace[:-1])
    above, below = np.mean(np.array(changes) > 0.01), np.mean(np.array(changes) < 0.001)
    assert f"{100 * above:.0f} % are above w1 = 0.01 and {100 * below:.0f} % below w2" in page
    losses = [f"{run['loss'][-1]:.3f}" for run in stored["thor_split"]["runs"].values()]
    assert list(stored["thor_split"]["runs"]) == ["18", "72", "whole"]
    assert f"({losses[0]}, {losses[1]} and {losses[2]} after four epochs" in page
    medians = np.array([median for _, median, _ in stored["fngd_weights"]["layers"].values()])
    first, last = medians[:, 0], medians[:, -1]
    for words, values, digits in (("start", first, 2), ("end", last, 3)):
        quoted = f"{words} between {values.min():.{digits}f} and {values.max():.{digits}f}"
        assert quoted in page
