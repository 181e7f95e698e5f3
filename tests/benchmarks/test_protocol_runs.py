"""Runs of the protocol: what a workload may be, its trials, the test split, what is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_protocol import Change, loaded, write_protocol, write_step_time
from fake_study import calls, labels

from benchmarks import study as program
from benchmarks.harness.left import what_is_left
from benchmarks.harness.spec import STUDIES, load_study
from benchmarks.harness.store import load_runs

Tree = dict[str, Any]


def a_trial(key: str, value: Any) -> Change:
    def change(shared: Tree, workload: Tree) -> None:
        shared["methods"]["thor"]["candidates"][1][key] = value

    return change


def twice(shared: Tree, workload: Tree) -> None:
    shared["methods"]["thor"]["candidates"] = [{"learning_rate.peak": 1.0}] * 2


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda s, w: w.update(protocol="nowhere.yaml"), "protocol is 'nowhere.yaml'"),
        (lambda s, w: w.update(seeds=[1]), "seeds is not for a workload"),
        (lambda s, w: w.update(methods={}), "methods is not for a workload"),
        (lambda s, w: w["common"]["data"].pop("validation"), "common.data.validation is missing"),
        (lambda s, w: w["common"].pop("train"), "common.train.epochs"),
        (lambda s, w: w.pop("common"), "common"),
        (lambda s, w: s.pop("trials"), "needs exactly the keys trials"),
        (lambda s, w: s.update(extra=1), "needs exactly the keys trials"),
        (lambda s, w: s.update(trials=5), "'sgd' has 2 trials; every method has exactly 5"),
        (lambda s, w: s["methods"]["thor"]["candidates"].pop(), "'thor' has 1 trials"),
        (lambda s, w: s.update(baselines=["lion"]), "baselines is ['lion']"),
        (lambda s, w: s.update(baselines=[]), "baselines is []"),
        (lambda s, w: s.update(trial_seed=1), "tuning.seed 1 is also a final seed"),
        (a_trial("length", 1.5), "length of a trial of 'thor' is 1.5"),
        (a_trial("length", True), "length of a trial of 'thor' is True"),
        (a_trial("optimizer.inverse_interval", 5), "optimizer.inverse_interval"),
        (twice, "'thor' has the trial {'learning_rate.peak': 1.0} twice"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, change: Change, word: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path, _ = write_protocol(tmp_path, change)
    assert program.main([str(path), "--left"]) == 2
    message = capfd.readouterr().err.strip()
    assert message.startswith("error: ") and "\n" not in message and word in message


def test_a_study_cannot_name_baselines_itself(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, _ = write_protocol(tmp_path, lambda s, w: w.update(baselines=["sgd"]))
    assert program.main([str(path), "--left"]) == 2
    assert "baselines" in capfd.readouterr().err


def test_a_trials_recipe(tmp_path: Path) -> None:
    study, _ = loaded(tmp_path)
    trial = yaml.safe_load(study.recipe("thor", 1, tuning=True))
    # Half of four epochs; a trial does not see the test split, the final run does.
    assert trial["train"]["epochs"] == 2 and trial["train"]["test"] is False
    assert trial["learning_rate"]["peak"] == 0.625 and "length" not in trial
    final = yaml.safe_load(study.recipe("thor", 1, tuning=False))
    assert final["train"]["epochs"] == 2 and "test" not in final["train"]
    assert yaml.safe_load(study.recipe("thor", 0, tuning=True))["train"]["epochs"] == 4


def test_a_trial_may_reach_into_a_schedule(tmp_path: Path) -> None:
    key = "optimizer.rest_learning_rate.peak"
    path, _ = write_protocol(tmp_path, a_trial(key, 0.01))
    trial = yaml.safe_load(load_study(path).recipe("thor", 1, tuning=True))
    assert trial["optimizer"] == {"name": "thor", "rest_learning_rate": {"peak": 0.01}}


def run(folder: Path, *flags: str) -> int:
    paths = [str(path) for path in write_protocol(folder)]
    places = ("--output_dir", str(folder / "out"), "--results_dir", str(folder / "results"))
    return program.main([*paths, *places, *flags])


def test_all_workloads_in_one_call(tmp_path: Path, fake: Path) -> None:
    data = ("--data_path", "mnist=A", "--data_path", "cifar10=B=C")
    assert run(tmp_path, "--only", "sgd,thor", "--publish", "--max_runs", "7", *data) == 0
    # All trials of a workload come before its first final run.
    trials = [f"{name}/tuning-{number}" for name in ("sgd", "thor") for number in (1, 2)]
    each = [*trials, "sgd/seed-1", "thor/seed-1"]
    assert labels(fake) == (2 * each)[:7]
    assert run(tmp_path, "--only", "sgd,thor", "--publish", *data) == 0
    assert labels(fake) == 2 * each
    folders = [Path(call["output_dir"]).parts[-3] for call in calls(fake)]
    assert folders == ["one"] * 6 + ["two"] * 6
    assert [call["data_path"] for call in calls(fake)] == ["A"] * 6 + ["B=C"] * 6
    tuning = json.loads((tmp_path / "results" / "one" / "tuning.json").read_text())
    # The rate, plus a hundredth an epoch; the second trial is half as long, at twice the rate.
    assert [item["curve"] for item in tuning["thor"]["candidates"]] == [
        pytest.approx([0.385, 0.395, 0.405, 0.415]),
        pytest.approx([0.635, 0.645]),
    ]
    assert tuning["thor"]["chosen"] == 1
    study, _ = loaded(tmp_path)
    (stored,) = load_runs(study, tmp_path / "results" / "one")["thor"]
    assert len(stored.rows) == 2 and stored.origin["test"] == {"top_1_accuracy": 0.125}


def test_trials_are_stored_before_the_final_run(tmp_path: Path, fake: Path) -> None:
    assert run(tmp_path, "--only", "sgd,thor", "--publish", "--max_runs", "2") == 0
    folder = tmp_path / "results" / "one"
    assert list(json.loads((folder / "tuning.json").read_text())) == ["sgd"]
    assert not list(folder.glob("*.jsonl"))
    # Times are of steps alone, so that one trial's graphs may serve the next.
    assert [call["train.compile_cache"] for call in calls(fake)] == [None, None]


def stored_rates(folder: Path) -> list[float]:
    tuning = json.loads((folder / "results" / "one" / "tuning.json").read_text())
    return [item["settings"]["learning_rate.peak"] for item in tuning["thor"]["candidates"]]


def test_defaults_come_first_and_replace_no_tuning(
    tmp_path: Path, fake: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ("--only", "thor", "--publish", "--data_path", "mnist=A", "--data_path", "cifar10=B")
    assert run(tmp_path, *flags, "--left", "--defaults") == 0
    assert capfd.readouterr().out.count("thor: 1 run(s), 4 epoch(s)") == 2
    assert run(tmp_path, *flags, "--defaults") == 0
    assert labels(fake) == ["thor/tuning-1"] * 2
    assert stored_rates(tmp_path) == [0.375]
    assert run(tmp_path, *flags, "--left", "--defaults", "--missing") == 0
    assert "left: 0 run(s)" in capfd.readouterr().out
    assert run(tmp_path, *flags) == 0
    assert labels(fake)[2:] == ["thor/tuning-2", "thor/seed-1"] * 2
    assert stored_rates(tmp_path) == [0.375, 0.625]
    assert run(tmp_path, *flags, "--defaults") == 0
    assert len(calls(fake)) == 6 and stored_rates(tmp_path) == [0.375, 0.625]


def test_defaults_are_a_protocols(capfd: pytest.CaptureFixture[str]) -> None:
    assert program.main([str(STUDIES / "fashion_mnist.yaml"), "--defaults"]) == 2
    assert "no workload of a protocol" in capfd.readouterr().err


@pytest.mark.parametrize("flags", [["--data_path", "A"], ["--data_path", "imagenet=A"]])
def test_a_folder_for_several_data_sets_is_refused(
    tmp_path: Path, flags: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, *flags) == 2
    assert "give NAME=FOLDER for each of mnist, cifar10" in capfd.readouterr().err


def test_what_came_before_a_divergence_counts(tmp_path: Path, fake: Path) -> None:
    (fake / "behaviour.txt").write_text("diverge")
    assert run(tmp_path, "--only", "sgd", "--max_runs", "3", "--publish") == 0
    tuning = json.loads((tmp_path / "results" / "one" / "tuning.json").read_text())
    found = [(item["value"], item["curve"]) for item in tuning["sgd"]["candidates"]]
    assert found == [(0.26, [0.26]), (0.51, [0.51])]


def test_a_run_cut_before_its_test_is_tested(tmp_path: Path, fake: Path) -> None:
    assert run(tmp_path, "--only", "sgd", "--max_runs", "2") == 0
    assert not (fake / "evaluated.txt").exists()
    (fake / "behaviour.txt").write_text("killed before the test")
    assert run(tmp_path, "--only", "sgd", "--max_runs", "1") == 2
    (fake / "behaviour.txt").unlink()
    data = ("--data_path", "mnist=A")
    assert run(tmp_path, "--only", "sgd", "--max_runs", "1", "--publish", *data) == 0
    folder = tmp_path / "out" / "one" / "sgd" / "seed-1"
    expected = f"--checkpoint_file_path {folder} --data_path A\n"
    assert (fake / "evaluated.txt").read_text() == expected
    assert labels(fake)[:4] == ["sgd/tuning-1", "sgd/tuning-2", "sgd/seed-1", "sgd/tuning-1"]
    assert not list(folder.glob("*.ckpt"))
    study, _ = loaded(tmp_path)
    (stored,) = load_runs(study, tmp_path / "results" / "one")["sgd"]
    assert stored.origin["test"] == {"top_1_accuracy": 0.25}


def test_a_trial_that_was_cut_at_its_end_is_not_tested(tmp_path: Path, fake: Path) -> None:
    (fake / "behaviour.txt").write_text("killed before the test")
    assert run(tmp_path, "--only", "sgd", "--max_runs", "1") == 2
    (fake / "behaviour.txt").unlink()
    assert run(tmp_path, "--only", "sgd", "--max_runs", "1") == 0
    assert labels(fake) == ["sgd/tuning-1", "sgd/tuning-2"]
    assert not (fake / "evaluated.txt").exists()


def test_what_is_left(tmp_path: Path, fake: Path, capfd: pytest.CaptureFixture[str]) -> None:
    studies = loaded(tmp_path)
    for study in studies:
        (tmp_path / "results" / study.name).mkdir(parents=True)
        seconds = {"sgd": 2.0, "adamw": 4.0}
        write_step_time(tmp_path / "results" / study.name, seconds, steps=30)
    assert run(tmp_path, "--left") == 0
    out = capfd.readouterr().out
    # Two trials of 4 and 2 epochs and a final run of at most 4, each epoch 30 steps of 2 and 4 s.
    assert "one: sgd: 3 run(s), 10 epoch(s), 10 min\n" in out
    assert "two: adamw: 3 run(s), 10 epoch(s), 20 min\n" in out
    assert "one: thor: 3 run(s), 10 epoch(s), time unknown\n" in out
    assert out.endswith(
        "left: 18 run(s), 1 h 0 min, and 6 run(s) whose step time was not measured "
        "(--step_time 8)\n"
    )
    assert calls(fake) == []
    # A run is cut in its second trial; the first one is done.
    assert run(tmp_path, "--only", "sgd", "--max_runs", "1") == 0
    (fake / "behaviour.txt").write_text("killed after an epoch")
    assert run(tmp_path, "--only", "sgd", "--max_runs", "1") == 2
    (fake / "behaviour.txt").unlink()
    capfd.readouterr()
    assert run(tmp_path, "--left", "--only", "sgd") == 0
    # 1 of 2 epochs of the second trial, and the final run.
    assert "one: sgd: 2 run(s), 5 epoch(s), 5 min\n" in capfd.readouterr().out
    # All trials done: the second one was chosen, so the final run has two epochs.
    assert run(tmp_path, "--only", "sgd", "--max_runs", "1") == 0
    capfd.readouterr()
    output, results = tmp_path / "out" / "one", tmp_path / "results" / "one"
    left = what_is_left(studies[0], ["sgd"], output, results, None, False)["sgd"]
    assert (left.runs, left.epochs, left.seconds) == (1, 2, 120.0)


def test_nothing_is_left_of_what_is_stored_or_done(
    tmp_path: Path, fake: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--only", "sgd", "--publish") == 0
    capfd.readouterr()
    for place, flags in (("out", []), ("elsewhere", ["--missing"])):
        arguments = [str(tmp_path / "studies" / "one.yaml"), "--only", "sgd", "--left", *flags]
        arguments += ["--output_dir", str(tmp_path / place / "one")]
        assert program.main([*arguments, "--results_dir", str(tmp_path / "results" / "one")]) == 0
        assert capfd.readouterr().out == "left: 0 run(s), 0 s\n"


def test_an_epoch_takes_what_the_methods_own_took(tmp_path: Path) -> None:
    study, _ = loaded(tmp_path)
    folder = tmp_path / "out" / "thor" / "tuning-1"
    folder.mkdir(parents=True)
    rows = [{"epoch": k, "wall_clock": 30.0 * k} for k in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_step_time(tmp_path, {"thor": 7.0})
    left = what_is_left(study, ["thor"], tmp_path / "out", tmp_path, None, False)["thor"]
    # 2 of 4 epochs are done; then 2 of the second trial and at most 4 of the final run.
    assert (left.runs, left.epochs, left.seconds) == (3, 8, 240.0)


def test_the_shipped_workloads_share_search_spaces() -> None:
    studies = [load_study(path) for path in sorted(STUDIES.glob("protocol_*.yaml"))]
    assert len(studies) >= 4
    for study in studies:
        assert study.baselines == ("sgd", "adamw", "nadamw") and study.validates
        assert {len(method.candidates) for method in study.methods.values()} == {5}
    spaces = [{name: m.candidates for name, m in study.methods.items()} for study in studies]
    assert all(space == spaces[0] for space in spaces)
