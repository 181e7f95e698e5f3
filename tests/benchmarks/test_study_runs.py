"""Runs of a study: what is repeated, continued, stored, and kept from other processes."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest
import yaml
from fake_study import STUDY, calls, labels, run_study, write_study

from benchmarks import study as program
from benchmarks.harness.runs import Runner, read_rows
from benchmarks.harness.spec import load_study
from benchmarks.harness.store import load_runs
from mindspore_thor.errors import UserError


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
    # Compiling is a part of a study's times.
    assert {call["train.compile_cache"] for call in calls(fake)} == {"false"}
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
    rows = read_rows(tmp_path / "out" / "sgd" / "seed-1")
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
    rows = read_rows(tmp_path / "out" / "sgd" / "seed-1")
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
