"""The study harness: what it refuses, what it repeats, how it continues; the sample study."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import study as program
from benchmarks.harness import runs as runs_module
from benchmarks.harness.runs import Runner, best_candidate
from benchmarks.harness.spec import STUDIES, Study, load_study
from benchmarks.harness.steps import events, scaled
from benchmarks.harness.store import load_runs
from benchmarks.step_time import amortised_seconds
from mindspore_thor.errors import UserError
from mindspore_thor.optim import METHODS
from mindspore_thor.optim.intervals import Interval

STUDY = {
    "title": "A title",
    "family": "mlp",
    "targets": [0.5, 0.7],
    "seeds": [1, 2],
    "common": {
        "model": {"name": "mlp", "hidden": [4]},
        "data": {"name": "mnist", "batch_size": 10},
        "learning_rate": {"schedule": "cosine", "peak": 0.1},
        "train": {"epochs": 3},
    },
    "tuning": {"epochs": 1, "seed": 9},
    "methods": {
        "sgd": {
            "settings": {"optimizer": {"name": "sgd"}},
            "candidates": [{"learning_rate.peak": 0.25}, {"learning_rate.peak": 0.5}],
        },
        "adamw": {
            "settings": {"optimizer": {"name": "adamw"}},
            "candidates": [{"learning_rate.peak": 0.75}, {"learning_rate.peak": 0.125}],
        },
    },
}

# Stands for train.py: accuracy is the peak learning rate plus a hundredth of the epoch.
FAKE_TRAIN = """
import argparse, json, os, pathlib, signal, sys, time
import yaml
parser = argparse.ArgumentParser()
for name in ("config_path", "train.seed", "data_path", "output_dir", "resume_ckpt"):
    parser.add_argument("--" + name)
given = vars(parser.parse_args())
here = pathlib.Path(__file__).parent
with open(here / "calls.txt", "a") as stream:
    stream.write(json.dumps(given) + "\\n")
folder = pathlib.Path(given["output_dir"])
recipe = yaml.safe_load(pathlib.Path(given["config_path"]).read_text())
behaviour = (here / "behaviour.txt").read_text() if (here / "behaviour.txt").exists() else ""
if behaviour == "wrong input":
    print("error: no such data")
    sys.exit(2)
metrics = folder / "metrics.jsonl"
rows = metrics.read_text().splitlines() if given["resume_ckpt"] else []
def save(epoch):
    for end in (".state.ckpt", ".ckpt"):
        (folder / f"mlp-{epoch}_4{end}").write_text("")
for epoch in range(len(rows) + 1, recipe["train"]["epochs"] + 1):
    if behaviour == "diverge" and epoch == 2:
        print("error: stopped at epoch 2")
        sys.exit(1)
    if behaviour == "killed at once":
        metrics.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    rows.append(json.dumps(
        {"epoch": epoch, "loss": 1.0, "learning_rate": 0.1, "skipped": 0,
         "top_1_accuracy": recipe["learning_rate"]["peak"] + epoch / 100, "step_ms": 1.0}
    ))
    metrics.write_text("\\n".join(rows) + "\\n")
    save(epoch)
    if behaviour == "killed after an epoch":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "wait":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        (here / "waiting").write_text("")
        time.sleep(60)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a train.py of its own; the harness calls that one."""
    folder = tmp_path / "fake"
    folder.mkdir()
    (folder / "train.py").write_text(FAKE_TRAIN)
    monkeypatch.setattr(runs_module, "ROOT", folder)
    return folder


def write_study(folder: Path, **changes: Any) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
    return path


def calls(fake: Path) -> list[dict[str, str]]:
    path = fake / "calls.txt"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def labels(fake: Path) -> list[str]:
    return ["/".join(Path(call["output_dir"]).parts[-2:]) for call in calls(fake)]


def run_study(folder: Path, *flags: str, **changes: Any) -> int:
    arguments = [str(write_study(folder, **changes)), "--output_dir", str(folder / "out")]
    return program.main([*arguments, "--results_dir", str(folder / "results"), *flags])


def test_missing_continues_where_the_stored_logs_end(tmp_path: Path, fake: Path) -> None:
    assert run_study(tmp_path, "--publish", "--seeds", "1") == 0
    elsewhere = ["--output_dir", str(tmp_path / "elsewhere"), "--missing"]
    done = len(calls(fake))
    assert run_study(tmp_path, *elsewhere, "--seeds", "1") == 0
    assert labels(fake)[done:] == []  # all of it is stored
    # The stored choices are taken: the tuning phase is not repeated.
    assert run_study(tmp_path, *elsewhere) == 0
    assert labels(fake)[done:] == ["sgd/seed-2", "adamw/seed-2"]
    recipe = yaml.safe_load((tmp_path / "elsewhere" / "sgd" / "seed-2" / "recipe.yaml").read_text())
    assert recipe["learning_rate"]["peak"] == 0.5


def test_missing_repeats_what_was_stored_with_other_settings(tmp_path: Path, fake: Path) -> None:
    assert run_study(tmp_path, "--publish", "--seeds", "1") == 0
    done = len(calls(fake))
    methods = {name: dict(part) for name, part in STUDY["methods"].items()}
    methods["sgd"]["settings"] = {"optimizer": {"name": "sgd", "momentum": 0.5}}
    methods["adamw"]["candidates"] = [{"learning_rate.peak": 0.75}, {"learning_rate.peak": 0.5}]
    elsewhere = ("--output_dir", str(tmp_path / "elsewhere"), "--missing", "--seeds", "1")
    stale = tmp_path / "results" / "sgd-seed2.jsonl"
    stale.write_text("a run with the former settings\n")
    other = tmp_path / "results" / "sgd-2ep-seed2.jsonl"
    other.write_text("a run of another method\n")
    assert run_study(tmp_path, *elsewhere, "--publish", methods=methods) == 0
    assert other.exists() and not stale.exists()  # one recipe is stored for all runs of a method
    # SGD has other settings. AdamW has other candidates, but the same final run comes of them.
    assert labels(fake)[done:] == ["sgd/seed-1", "adamw/tuning-1", "adamw/tuning-2"]


def test_every_method_is_tuned_then_trained_seed_by_seed(tmp_path: Path, fake: Path) -> None:
    assert run_study(tmp_path, "--publish", "--data_path", "somewhere") == 0
    assert labels(fake) == [
        *("sgd/tuning-1", "sgd/tuning-2", "sgd/seed-1"),
        *("adamw/tuning-1", "adamw/tuning-2", "adamw/seed-1"),
        *("sgd/seed-2", "adamw/seed-2"),
    ]
    assert {call["data_path"] for call in calls(fake)} == {"somewhere"}
    assert [call["train.seed"] for call in calls(fake)][:3] == ["9", "9", "1"]
    # The second candidate of SGD and the first one of AdamW have the higher peak.
    chosen = {"sgd": 0.5, "adamw": 0.75}
    for name, peak in chosen.items():
        recipe = yaml.safe_load((tmp_path / "results" / f"{name}.yaml").read_text())
        assert recipe["learning_rate"]["peak"] == peak
        assert recipe["train"]["epochs"] == 3
    tuning = json.loads((tmp_path / "results" / "tuning.json").read_text())
    assert {name: part["chosen"] for name, part in tuning.items()} == {"sgd": 1, "adamw": 0}
    assert [item["value"] for item in tuning["sgd"]["candidates"]] == [0.26, 0.51]
    stored = load_runs(load_study(write_study(tmp_path)), tmp_path / "results")
    assert [(run.method, run.seed) for group in stored.values() for run in group] == [
        *(("sgd", 1), ("sgd", 2), ("adamw", 1), ("adamw", 2))
    ]
    run = stored["adamw"][1]
    assert [row["top_1_accuracy"] for row in run.rows] == pytest.approx([0.76, 0.77, 0.78])
    # Times of single runs are not part of the stored logs.
    assert set(run.rows[0]) == {"epoch", "loss", "learning_rate", "skipped", "top_1_accuracy"}
    assert {"commit", "versions", "machine"} <= set(run.origin)
    assert set(run.origin["versions"]) == {"mindspore_thor", "mindspore", "numpy", "python"}
    assert not list((tmp_path / "out").glob("**/*.ckpt"))


def test_finished_runs_are_never_repeated(tmp_path: Path, fake: Path) -> None:
    assert run_study(tmp_path, "--max_runs", "2") == 0
    assert labels(fake) == ["sgd/tuning-1", "sgd/tuning-2"]
    assert run_study(tmp_path, "--only", "adamw,sgd", "--seeds", "1") == 0
    assert labels(fake)[2:] == [*("adamw/tuning-1", "adamw/tuning-2", "adamw/seed-1", "sgd/seed-1")]
    assert run_study(tmp_path, "--seeds", "1") == 0
    assert len(calls(fake)) == 6


def test_a_shorter_form_of_a_method_shares_its_tuning(tmp_path: Path, fake: Path) -> None:
    common = {"model": {"hidden": [2]}}
    tuning = {"epochs": 1, "seed": 9, "common": common}
    flags = ("--seeds", "1", "--publish")
    assert run_study(tmp_path, *flags, tuning=tuning, shorter=[2]) == 0
    assert labels(fake) == [
        *("sgd/tuning-1", "sgd/tuning-2", "sgd/seed-1"),
        *("adamw/tuning-1", "adamw/tuning-2", "adamw/seed-1"),
        *("sgd-2ep/seed-1", "adamw-2ep/seed-1"),
    ]
    # name -> hidden width, rate (the better candidate's in the end), epochs
    expected = {
        "sgd/tuning-1": ([2], 0.25, 1),
        "sgd/seed-1": ([4], 0.5, 3),
        "sgd-2ep/seed-1": ([4], 0.5, 2),
        "adamw-2ep/seed-1": ([4], 0.75, 2),
    }
    for label, (hidden, peak, epochs) in expected.items():
        recipe = yaml.safe_load((tmp_path / "out" / label / "recipe.yaml").read_text())
        found = (recipe["model"]["hidden"], recipe["learning_rate"]["peak"])
        assert (*found, recipe["train"]["epochs"]) == (hidden, peak, epochs)
    study = load_study(write_study(tmp_path, tuning=tuning, shorter=[2]))
    stored = load_runs(study, tmp_path / "results")
    assert {name: len(group[0].rows) for name, group in stored.items()} == {
        "sgd": 3,
        "adamw": 3,
        "sgd-2ep": 2,
        "adamw-2ep": 2,
    }
    again = ("--only", "sgd-2ep", "--results_dir", str(tmp_path / "other"))
    assert run_study(tmp_path, *flags, *again, tuning=tuning, shorter=[2]) == 0
    assert len(calls(fake)) == 8
    assert list(json.loads((tmp_path / "other" / "tuning.json").read_text())) == ["sgd"]


def test_sgd_alone_has_longer_runs(tmp_path: Path, fake: Path) -> None:
    assert run_study(tmp_path, "--seeds", "1", "--publish", longer=[6]) == 0
    assert labels(fake) == [
        *("sgd/tuning-1", "sgd/tuning-2", "sgd/seed-1"),
        *("adamw/tuning-1", "adamw/tuning-2", "adamw/seed-1", "sgd-6ep/seed-1"),
    ]
    recipe = yaml.safe_load((tmp_path / "results" / "sgd-6ep.yaml").read_text())
    assert (recipe["train"]["epochs"], recipe["learning_rate"]["peak"]) == (6, 0.5)


@pytest.mark.parametrize(
    ("behaviour", "resumed"), [("killed after an epoch", True), ("killed at once", False)]
)
def test_a_run_that_was_cut_continues(
    tmp_path: Path, fake: Path, behaviour: str, resumed: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_study(tmp_path, "--only", "sgd", "--max_runs", "2") == 0
    (fake / "behaviour.txt").write_text(behaviour)
    assert run_study(tmp_path, "--only", "sgd") == 2
    assert "sgd/seed-1: exit code -9" in capfd.readouterr().err
    (fake / "behaviour.txt").unlink()
    assert run_study(tmp_path, "--only", "sgd", "--seeds", "1") == 0
    again = calls(fake)[-1]
    assert labels(fake)[2:] == ["sgd/seed-1", "sgd/seed-1"]
    assert (again["resume_ckpt"] == again["output_dir"]) is resumed
    rows = runs_module.read_rows(tmp_path / "out" / "sgd" / "seed-1")
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    # SGD's second candidate has the rate 0.5. What was shown before the cut is not shown again.
    shown = [line for line in capfd.readouterr().out.splitlines() if " epoch " in line]
    assert shown == [
        f"sgd/seed-1: epoch {epoch} of 3, top_1_accuracy {0.5 + epoch / 100:.4f}"
        for epoch in ([2, 3] if resumed else [1, 2, 3])
    ]


def test_a_signal_is_passed_on_and_the_run_continues(tmp_path: Path, fake: Path) -> None:
    assert run_study(tmp_path, "--only", "sgd", "--max_runs", "2") == 0
    (fake / "behaviour.txt").write_text("wait")

    def interrupt() -> None:
        for _ in range(600):
            if (fake / "waiting").exists():
                break
            threading.Event().wait(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert run_study(tmp_path, "--only", "sgd") == 128 + signal.SIGTERM
    thread.join()
    (fake / "behaviour.txt").unlink()
    assert run_study(tmp_path, "--only", "sgd", "--max_runs", "1") == 0
    again = calls(fake)[-1]
    assert labels(fake)[2:] == ["sgd/seed-1", "sgd/seed-1"]
    assert again["resume_ckpt"] == again["output_dir"]
    rows = runs_module.read_rows(tmp_path / "out" / "sgd" / "seed-1")
    assert [row["epoch"] for row in rows] == [1, 2, 3]


def test_a_diverged_run_is_a_result_and_is_not_repeated(tmp_path: Path, fake: Path) -> None:
    assert run_study(tmp_path, "--only", "sgd", "--max_runs", "2") == 0
    (fake / "behaviour.txt").write_text("diverge")
    for _ in range(2):
        assert run_study(tmp_path, "--only", "sgd", "--seeds", "1", "--publish") == 0
        assert len(calls(fake)) == 3
    (run,) = load_runs(load_study(write_study(tmp_path)), tmp_path / "results")["sgd"]
    assert run.failed == "error: stopped at epoch 2"
    assert len(run.rows) == 1


def test_wrong_input_of_a_run_and_changed_settings_end_the_study(
    tmp_path: Path, fake: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (fake / "behaviour.txt").write_text("wrong input")
    assert run_study(tmp_path) == 2
    assert "error: sgd/tuning-1: no such data" in capfd.readouterr().err
    (fake / "behaviour.txt").unlink()
    assert run_study(tmp_path, "--only", "sgd", "--max_runs", "1") == 0
    changed = {**STUDY["common"], "data": {"name": "mnist", "batch_size": 20}}  # type: ignore[dict-item]
    path = write_study(tmp_path, common=changed)
    assert program.main([str(path), "--output_dir", str(tmp_path / "out")]) == 2
    assert "other settings" in capfd.readouterr().err


def test_a_folder_of_something_else_is_left_alone(
    tmp_path: Path, fake: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "out" / "sgd" / "tuning-1" / "thesis.txt"
    other.parent.mkdir(parents=True)
    other.write_text("years of work")
    assert run_study(tmp_path, "--only", "sgd") == 2
    assert "not a run of a study" in capfd.readouterr().err
    assert other.read_text() == "years of work" and not calls(fake)


def test_two_processes_do_not_share_a_method(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path, shorter=[2]))

    def runner() -> Runner:
        return Runner(study, tmp_path / "out", None)

    with runner().exclusive(["sgd"]):
        with runner().exclusive(["adamw", "adamw-2ep"]):
            pass
        for name in ("sgd", "sgd-2ep"):
            with (
                pytest.raises(UserError, match="out/sgd: another process"),
                runner().exclusive(["adamw", name]),
            ):
                pass
    with runner().exclusive(["sgd-2ep", "adamw"]):
        pass


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
    assert scaled(pairs) == {
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
    assert "sgd" in names
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
