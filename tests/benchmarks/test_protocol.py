"""The protocol's figures by hand-made logs: targets, times to them, profiles, tables, pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_protocol import loaded, write_step_time, write_trials
from PIL import Image

from benchmarks import report as program
from benchmarks.harness.profile import steps
from benchmarks.harness.protocol import (
    benchmark_score,
    find_target,
    load_workload,
    performance_ratios,
    profile,
    reached,
    times,
)
from benchmarks.harness.spec import Study
from mindspore_thor.errors import UserError

# Trials of four epochs, and of two: the second ones have length 0.5.
ONE: dict[str, list[list[float | None]]] = {
    "sgd": [[0.2, 0.4, 0.5, 0.6], [0.4, 0.7]],
    "adamw": [[0.3, 0.5, 0.6, 0.65], [None, 0.1]],
    "thor": [[0.6, 0.66, 0.72, 0.74], [0.5, 0.6]],
}
TWO: dict[str, list[list[float | None]]] = {
    "sgd": [[0.1, 0.2, 0.2, 0.3], [0.2, 0.2]],
    "adamw": [[0.3, 0.5, 0.7, 0.8], [0.4, 0.6]],
    "thor": [[0.4, 0.6, 0.7, 0.79], [0.6, 0.9]],
}
SECONDS = {"sgd": 0.1, "adamw": 0.1, "thor": 0.15}


@pytest.fixture
def studies(tmp_path: Path) -> list[Study]:
    found = loaded(tmp_path)
    for study, curves in zip(found, (ONE, TWO)):
        write_trials(study, tmp_path / "logs" / study.name, curves)
        write_step_time(tmp_path / "logs" / study.name, SECONDS)
    return found


def test_the_better_baseline_sets_the_target(tmp_path: Path, studies: list[Study]) -> None:
    one, two = (load_workload(study, tmp_path / "logs" / study.name) for study in studies)
    for workload, tuned, value, name in (
        (one, True, 0.7, "sgd"),
        (one, False, 0.65, "adamw"),
        (two, True, 0.8, "adamw"),
        (two, False, 0.8, "adamw"),
    ):
        target = find_target(workload, tuned=tuned)
        assert target is not None and (target.value, target.baseline) == (value, name)


def test_a_target_needs_every_baseline(tmp_path: Path, studies: list[Study]) -> None:
    folder = tmp_path / "logs" / "one"
    write_trials(studies[0], folder, {name: ONE[name] for name in ("sgd", "thor")})
    workload = load_workload(studies[0], folder)
    assert list(workload.curves) == ["sgd", "thor"]
    assert find_target(workload, tuned=True) is None and times([workload], tuned=True) == {}
    # Trials of another search space say nothing about this one.
    stored = json.loads((folder / "tuning.json").read_text())
    stored["sgd"]["candidates"][0]["settings"] = {"learning_rate.peak": 7.0}
    (folder / "tuning.json").write_text(json.dumps(stored))
    assert list(load_workload(studies[0], folder).curves) == ["thor"]


def test_the_fastest_trial_counts(tmp_path: Path, studies: list[Study]) -> None:
    workloads = [load_workload(study, tmp_path / "logs" / study.name) for study in studies]
    # Ten steps an epoch. To 0.7: SGD's second trial after 2 epochs of 1 s, THOR's first after 3 of
    # 1.5 s. To 0.8: AdamW's first after 4 of 1 s, THOR's second after 2 of 1.5 s.
    expected = {
        "one": {"sgd": 2.0, "adamw": math.inf, "thor": 4.5},
        "two": {"sgd": math.inf, "adamw": 4.0, "thor": 3.0},
    }
    found = times(workloads, tuned=True)
    assert {name: pytest.approx(row) for name, row in expected.items()} == found
    target = find_target(workloads[0], tuned=True)
    assert target is not None
    there = reached(workloads[0], "thor", target, tuned=True)
    assert there is not None and (there.trial, there.epochs) == (0, 3)
    # Defaults: to 0.65 THOR after 2 epochs, AdamW after 4; to 0.8 AdamW alone.
    untuned = times(workloads, tuned=False)
    assert untuned["one"] == pytest.approx({"sgd": math.inf, "adamw": 4.0, "thor": 3.0})
    assert untuned["two"] == pytest.approx({"sgd": math.inf, "adamw": 4.0, "thor": math.inf})
    ratios = performance_ratios(found)
    assert ratios == {
        "sgd": pytest.approx([1.0, math.inf]),
        "adamw": pytest.approx([math.inf, 4 / 3]),
        "thor": pytest.approx([2.25, 1.0]),
    }


def test_a_default_alone_counts_where_nothing_is_tuned(
    tmp_path: Path, studies: list[Study]
) -> None:
    folder = tmp_path / "logs" / "one"
    write_trials(studies[0], folder, {**ONE, "thor": ONE["thor"][:1]})
    workload = load_workload(studies[0], folder)
    assert set(times([workload], tuned=True)["one"]) == {"sgd", "adamw"}
    # To 0.65 after two epochs, to the tuned 0.7 after three.
    for target, seconds in ((None, 3.0), (True, 4.5)):
        taken = times([workload], tuned=False, tuned_target=target)["one"]
        assert taken["thor"] == pytest.approx(seconds)
    page = page_of(tmp_path)
    program.report(tmp_path, tmp_path / "logs", studies[:1], check=False)
    assert rows_of(page.read_text(), "| thor") == [
        ["thor", "0.75 (2)", f"{3 / 3:.2f}"],
        ["thor", "2.25"],
    ]
    # A baseline's default makes a target of the defaults, and none that is tuned.
    write_trials(studies[0], folder, {**ONE, "sgd": ONE["sgd"][:1]})
    workload = load_workload(studies[0], folder)
    assert find_target(workload, tuned=True) is None
    untuned = find_target(workload, tuned=False)
    assert untuned is not None and untuned.value == 0.65


def test_a_method_without_all_workloads_has_no_profile() -> None:
    taken = {"one": {"sgd": 2.0, "thor": 1.0}, "two": {"sgd": 3.0}}
    assert performance_ratios(taken) == {"sgd": [2.0, 1.0]}


@pytest.mark.parametrize(
    "ratios", [[1.0], [1.0, 2.25], [4.0, 1.5, math.inf], [math.inf], [3.0, 3.0, 9.0]]
)
def test_the_score_is_the_profiles_mean(ratios: list[float]) -> None:
    # Riemann's sum of the definition, on a grid that has no ratio on it.
    grid = np.linspace(1.0, 4.0, 30_001)[:-1] + 5e-5
    mean = np.mean([np.mean([ratio <= factor for ratio in ratios]) for factor in grid])
    assert benchmark_score(ratios) == pytest.approx(mean, abs=1e-3)
    factors, shares = steps(ratios)
    assert factors[0] == 1.0 and factors[-1] == 4.0
    area = sum(
        share * (later - factor) for share, factor, later in zip(shares, factors, factors[1:])
    )
    assert area / 3.0 == pytest.approx(benchmark_score(ratios))
    assert shares[-1] == profile(ratios, 4.0) == sum(r <= 4.0 for r in ratios) / len(ratios)


def page_of(root: Path) -> Path:
    page = root / "docs" / "results.md"
    page.parent.mkdir(parents=True)
    page.write_text("above\n<!-- results: protocol -->\n<!-- end of results: protocol -->\nbelow\n")
    return page


def rows_of(text: str, start: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith(start)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_page(tmp_path: Path, studies: list[Study]) -> None:
    page = page_of(tmp_path)
    logs = tmp_path / "logs"
    head = {"seed": 1, "test": {"top_1_accuracy": 0.6}}
    rows = [{"epoch": k, "top_1_accuracy": value} for k, value in enumerate((0.5, 0.7, 0.65), 1)]
    text = "".join(json.dumps(item) + "\n" for item in (head, *rows))
    (logs / "one" / "thor-seed1.jsonl").write_text(text)
    assert program.report(tmp_path, logs, studies, check=True) == [page]
    assert program.report(tmp_path, logs, studies, check=False) == [page]
    text = page.read_text()
    assert text.startswith("above\n") and text.endswith("below\n")
    assert rows_of(text, "| one | 4") == [
        ["one", "4", "top_1_accuracy", "70.00 %", "sgd", "65.00 %"]
    ]
    # Times over the baseline's: 4.5 / 2 and 3 / 4 tuned, 3 / 4 and none with defaults; the test.
    tuned, default, against, end = rows_of(text, "| thor")
    assert tuned == ["thor", "2.25 (3)", "0.75 (2)", f"{(1.75 + 3) / 6:.2f}"]
    assert default == ["thor", "0.75 (2)", "-", f"{3 / 6:.2f}"]
    # Defaults to 0.7, in SGD's 2 s: THOR after 3 epochs; to 0.8, in AdamW's 4 s: AdamW alone.
    assert against == ["thor", "2.25", "-"]
    assert rows_of(text, "| adamw")[2] == ["adamw", "-", "1.00"]
    assert end == ["thor", "70.00 %; 60.00 %", ""]
    for name in ("profile", "curves"):
        assert f"(figures/protocol_{name}.png)" in text
        with Image.open(page.parent / "figures" / f"protocol_{name}.png") as picture:
            picture.load()
            assert min(picture.size) > 350
    assert program.report(tmp_path, logs, studies, check=True) == []


def test_a_page_without_runs_and_one_without_step_times(tmp_path: Path) -> None:
    studies, page, logs = loaded(tmp_path), page_of(tmp_path), tmp_path / "logs"
    program.report(tmp_path, logs, studies, check=False)
    assert "Its runs have not been made yet." in page.read_text()
    write_trials(studies[0], logs / "one", ONE)
    program.report(tmp_path, logs, studies, check=False)
    text = page.read_text()
    assert "70.00 %" in text and "not known yet" in text and ".png" not in text
    assert not (page.parent / "figures").exists()


def test_the_readme_has_a_line_per_workload(tmp_path: Path, studies: list[Study]) -> None:
    readme, logs = tmp_path / "README.md", tmp_path / "logs"
    readme.write_text("<!-- results: protocol -->\n<!-- end of results: protocol -->\n")
    assert program.report(tmp_path, logs, studies[:1], check=False) == [readme]
    assert rows_of(readme.read_text(), "| workload") == [
        ["workload", "target", "thor", "thor, not tuned"]  # others have not been run
    ]
    assert program.report(tmp_path, logs, studies, check=False) == [readme]
    assert rows_of(readme.read_text(), "| A workload") == [
        ["A workload", "sgd: 70.00 %", "2.25", "2.25"],
        ["A workload", "adamw: 80.00 %", "0.75", "-"],
    ]
    (logs / "one" / "step_time.json").unlink()
    (logs / "two" / "step_time.json").unlink()
    program.report(tmp_path, logs, studies, check=False)
    assert "Its runs have not been made yet." in readme.read_text()


def test_the_readme_tells_a_rival_that_missed_from_one_that_was_not_run(tmp_path: Path) -> None:
    """Muon's first epoch takes the 2 s of SGD's two that set the target; then it is not reached."""

    def with_muon(shared: dict[str, Any], one: dict[str, Any]) -> None:
        shared["methods"]["muon"] = {**shared["methods"]["adamw"]}
        shared["methods"]["muon"]["settings"] = {"optimizer": {"name": "muon"}}

    found = loaded(tmp_path, with_muon)
    missed: list[list[float | None]] = [[0.1] * 4, [0.1, 0.2]]
    readme, seconds = tmp_path / "README.md", {**SECONDS, "muon": 0.2}
    readme.write_text("<!-- results: protocol -->\n<!-- end of results: protocol -->\n")
    for curves, cells in (
        ((ONE | {"muon": [[0.7, 0.7, 0.7, 0.7], [0.1, 0.1]]}, TWO), ["muon 1.00", ""]),
        ((ONE | {"muon": missed}, TWO), ["-", ""]),
    ):
        for study, tried in zip(found, curves):
            write_trials(study, tmp_path / "logs" / study.name, tried)
            write_step_time(tmp_path / "logs" / study.name, seconds)
        program.report(tmp_path, tmp_path / "logs", found, check=False)
        assert [row[3] for row in rows_of(readme.read_text(), "| A workload")] == cells


def test_a_page_without_a_place_for_it_is_an_error(tmp_path: Path, studies: list[Study]) -> None:
    page_of(tmp_path).write_text("no markers")
    with pytest.raises(UserError, match="results: protocol"):
        program.report(tmp_path, tmp_path / "logs", studies, check=False)
