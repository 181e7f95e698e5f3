"""The study harness: what a study may be, its step times; the sample study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_study import run_study, write_study

from benchmarks import study as program
from benchmarks.harness.runs import Runner, best_candidate
from benchmarks.harness.spec import STUDIES, Study, load_study
from benchmarks.harness.steps import events, scaled
from benchmarks.harness.store import load_runs
from benchmarks.step_time import amortised_seconds
from mindspore_thor.optim import METHODS
from mindspore_thor.optim.intervals import Interval


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"colour": 1}, "colour"),
        ({"targets": []}, "targets"),
        ({"seeds": "1"}, "seeds"),
        ({"tuning": {"epochs": 1, "seed": 2}}, "tuning.seed 2"),
        ({"tuning": {"epochs": 1, "seed": 3, "rounds": 4}}, "tuning needs"),
        ({"tuning": {"epochs": 1, "seed": 3, "common": 4}}, "tuning.common is 4"),
        ({"common": {"train": {}}}, "common.train.epochs"),
        ({"common": 4}, "common is 4"),
        ({"methods": "sgd"}, "methods is 'sgd'"),
        ({"shorter": [3]}, "shorter is [3]; give a list of whole numbers from 1 to 2"),
        ({"shorter": 1}, "shorter is 1"),
        ({"longer": [3]}, "longer is [3]; give a list of whole numbers above 3"),
        (
            {
                "longer": [6],
                "methods": {"a": {"settings": {}, "candidates": [{"learning_rate.peak": 1}]}},
            },
            "longer is for 'sgd'",
        ),
        ({"methods": {"sgd": {"settings": {}}}}, "candidates"),
        ({"methods": {"sgd": {"settings": {}, "candidates": [{"peak": 1}]}}}, "dotted"),
        (
            {
                "methods": {
                    "a": {"settings": {}, "candidates": [{"x.y": 1}]},
                    "b": {"settings": {}, "candidates": [{"x.y": 1}, {"x.y": 2}]},
                }
            },
            "tuning budgets differ",
        ),
    ],
)
def test_a_study_that_cannot_be_fair_or_read_is_refused(
    tmp_path: Path, changes: dict[str, Any], word: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert program.main([str(write_study(tmp_path, **changes))]) == 2
    message = capfd.readouterr().err.strip()
    assert message.startswith("error: ") and "\n" not in message and word in message


@pytest.mark.parametrize(
    ("flags", "word"), [(["--only", "sdg"], "sdg"), (["--seeds", "0"], "--seeds")]
)
def test_wrong_flags_are_refused(
    tmp_path: Path, flags: list[str], word: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_study(tmp_path, *flags) == 2
    assert word in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_best_candidate() -> None:
    assert best_candidate([0.1, 0.3, 0.3], lower_is_better=False) == 1
    assert best_candidate([None, 0.3, 0.2], lower_is_better=True) == 2
    assert best_candidate([None, None], lower_is_better=False) == 0


def test_amortised_time_counts_what_really_happens() -> None:
    # Steps 0, 4, 8 at interval 4; from step 10 on interval 7, which holds from step 12: 12, 19, 26.
    table = [[0, 4], [10, 7]]
    assert [events(Interval("x", table), n) for n in (1, 4, 5, 12, 13, 20, 27)] == [
        *(1, 1, 2, 3, 4, 5, 6)
    ]
    medians = {"plain": 2.0, "factor": 5.0, "inverse": 10.0}
    # Ten steps: eight plain, two with factors, one inversion.
    assert amortised_seconds(medians, 0.2, 0.1) == pytest.approx((8 * 2 + 2 * 5 + 10) / 10)
    assert amortised_seconds({"plain": 2.0}, 0.0, 0.0) == 2.0
    # Of 10 steps 8 are plain; one collects all, one the factors alone, and then there is a refresh.
    brief = {**medians, "brief": 3.0}
    assert amortised_seconds(brief, 0.2, 0.1) == pytest.approx((8 * 2 + 5 + 3 + 10) / 10)


def test_ratios_to_sgd_stay_those_of_a_methods_own_process() -> None:
    pairs = [
        {"sgd": {"plain": 2.0}, "thor": {"plain": 3.0, "factor": 5.0}},
        {"sgd": {"plain": 4.0}, "kfac": {"plain": 6.0, "factor": 14.0}},
    ]
    # SGD's median is 3; THOR has 1.5 and 2.5 times SGD's, KFAC 1.5 and 3.5.
    assert scaled(pairs, "sgd") == {
        "sgd": {"plain": 3.0},
        "thor": {"plain": 4.5, "factor": 7.5},
        "kfac": {"plain": 4.5, "factor": 10.5},
    }


def shipped() -> list[Study]:
    return [load_study(path) for path in sorted(STUDIES.glob("*.yaml"))]


@pytest.mark.parametrize("study", shipped(), ids=lambda study: study.name)
def test_the_shipped_studies_are_valid(study: Study, tmp_path: Path) -> None:
    names = [
        name
        for name, method in study.methods.items()
        if method.settings["optimizer"]["name"] in METHODS
    ]
    assert study.baseline in names
    Runner(study, tmp_path, None).check_recipes(names)


@pytest.mark.slow
def test_the_sample_study(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """SGD is tuned and trained; THOR has one candidate, which leaves nothing to tune."""
    arguments = [str(STUDIES / "sample.yaml"), "--output_dir", str(tmp_path / "out")]
    arguments += ["--publish", "--results_dir", str(tmp_path / "results"), "--only", "sgd"]
    assert program.main([*arguments, "--max_runs", "1"]) == 0
    first = tmp_path / "out" / "sgd" / "tuning-1" / "metrics.jsonl"
    before = (first.read_bytes(), first.stat().st_mtime_ns)
    assert program.main(arguments) == 0
    assert (first.read_bytes(), first.stat().st_mtime_ns) == before
    printed = capfd.readouterr().out
    assert printed.count("begun") == 3 and "continued" not in printed
    study = yaml.safe_load((STUDIES / "sample.yaml").read_text())
    for method in study["methods"].values():
        del method["candidates"][:-1]
    path = tmp_path / "sample.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    arguments = [str(path), "--output_dir", str(tmp_path / "untuned"), "--publish"]
    arguments += ["--results_dir", str(tmp_path / "results"), "--only", "thor"]
    assert program.main(arguments) == 0
    assert capfd.readouterr().out.count("begun") == 1
    stored = load_runs(load_study(path), tmp_path / "results")
    assert sorted(stored) == ["sgd", "thor"]
    for (run,) in stored.values():
        assert [row["epoch"] for row in run.rows] == [1, 2]
        assert run.failed is None
        assert run.rows[-1]["top_1_accuracy"] > 0.6


@pytest.mark.slow
def test_step_times_of_the_sample_study(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = [str(STUDIES / "sample.yaml"), "--results_dir", str(tmp_path), "--step_time", "1"]
    assert program.main(arguments) == 0
    assert "x SGD" in capfd.readouterr().out
    (stored,) = (json.loads(path.read_text()) for path in tmp_path.iterdir())
    assert stored["paired"] and stored["rounds"] == 1
    assert stored["steps_per_epoch"] == 5000 // 250
    times = stored["methods"]
    assert list(times) == ["sgd", "thor"]
    assert times["sgd"]["amortised"] == times["sgd"]["plain"] > 0
    # Of 2 x 20 steps 8 collect factors (interval 5) and 4 invert (interval 10).
    thor = times["thor"]
    expected = 0.8 * thor["plain"] + 0.2 * thor["factor"] + 0.1 * thor["inverse"]
    assert thor["amortised"] == pytest.approx(expected)
