"""What the measurement tools count, divide and say, however fast anything is."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor, nn

from benchmarks import compile_time, step_time
from benchmarks.compile_time import Measured, row, table
from benchmarks.harness.process import ProcessEnded
from mindspore_thor import THOR, TrainStep


def runner(name: str, calls: list[str], **step: Any) -> step_time.Runner:
    """A method whose step only notes that it was called."""

    def called(*batch: Any) -> Tensor:
        calls.append(name)
        return Tensor(0.0)

    intervals = [step_time.METHODS[name][1].get(key, 1) for key in step_time.INTERVALS]
    fake: Any = type("Step", (), {"__call__": staticmethod(called), "second_order": False, **step})
    return step_time.Runner(name, fake(), *intervals)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("thor", 20), ("eva", 20), ("fngd", 20), ("lngd", 100)],
)
def test_so_many_calls_hold_every_interval_equally_often(name: str, expected: int) -> None:
    found = runner(name, [])
    assert found.calls() == expected
    assert expected % found.factor_interval == expected % found.inverse_interval == 0


def test_whole_steps_are_called_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two compiling calls each, then 2 rounds of 20 pairs; the means come from the clock alone."""
    calls: list[str] = []
    pair = runner("sgd", calls), runner("thor", calls)
    # The clock advances by 1 in SGD's and by 3 in THOR's calls, CPU time by half of that.
    now = [0.0]

    def clock() -> float:
        now[0] = sum(1.0 if name == "sgd" else 3.0 for name in calls)
        return now[0]

    monkeypatch.setattr(step_time.time, "perf_counter", clock)
    monkeypatch.setattr(step_time.time, "process_time", lambda: clock() / 2)
    found = step_time.whole_steps(pair, (), 2)
    assert calls == ["sgd"] * 2 + ["thor"] * 2 + ["sgd", "thor"] * 40
    assert found == {"sgd": 1.0, "sgd_cpu": 0.5, "whole": 3.0, "whole_cpu": 1.5, "calls": 20}
    (line,) = step_time.whole_table({"thor": {**found, "whole_cpu": 1.0}}).splitlines()[2:]
    assert line == "| thor | 20 | 1000 | 3000 | 3.00 | 2.00 |"


def test_fngds_first_epoch_goes_by() -> None:
    calls: list[str] = []
    number = SimpleNamespace(asnumpy=lambda: np.array([len(calls)]))
    optimizer = SimpleNamespace(first_epoch=7, global_step=number)
    runner("fngd", calls, optimizer=optimizer).begin(())
    assert len(calls) == 7
    # Where the phases have been measured before, most of it is over.
    calls[:] = ["before"] * 6
    runner("fngd", calls, optimizer=optimizer).begin(())
    assert len(calls) == 6 + 2


def test_defaults_are_the_constructors() -> None:
    default = inspect.signature(THOR).parameters["split_dim"].default
    sizes = []
    for defaults in (True, False):
        _, optimizer = step_time.make_optimizer("thor", "resnet20", defaults)
        sizes.append(max(optimizer.refresher.assignment.sizes))
        # Not the constructor's: THOR's factors as seldom as its inverses, every 20 steps.
        assert int(optimizer.factor_interval.changes.asnumpy().sum()) == 20
    # 576 inputs are the most; they are split into blocks of at most that size.
    assert sizes[1] == 72 < sizes[0] <= default


def test_what_would_measure_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert step_time.main(["--no_phases"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "--whole" in error and error.count("\n") == 1


# -- compile_time -------------------------------------------------------------------------------


def measured(first: float, second: float, capture: float) -> Measured:
    """A process that took so long; its CPU time is half of that."""
    steps = [(first, first / 2), (second, second / 2)]
    return Measured(steps, {"capture": (capture, 0.5), "plain": (1.0, 0.25)})


def test_ratios_are_those_to_the_sgd_beside() -> None:
    rounds = [
        (measured(2, 4, 0), measured(10, 12, 3)),
        (measured(3, 5, 0), measured(20, 30, 5)),
        (measured(1, 3, 0), measured(9, 11, 4)),
    ]
    found = row(rounds)
    assert found["steps"] == [[10, 5], [12, 6]] and found["sgd"] == [[2, 1], [4, 2]]
    assert found["ratio"] == found["cpu_ratio"] == 3.0
    assert found["graphs"] == {"capture": [4, 0.5], "plain": [1.0, 0.25]}
    assert row([]) == {}
    head, _, thor, other = table({"thor": found, "kfac_eigen": {}}, 2).splitlines()
    assert head.count("|") == thor.count("|") == other.count("|")
    assert thor.startswith("| thor | 10.0 (5.0) | 12.0 (6.0) | 3.00 | 3.00 | 4.0 + 0.5 | - | - |")
    assert other.startswith("| kfac_eigen | ended | ended |")


def test_every_graphs_first_call_is_noted() -> None:
    """THOR on one layer: step 1 collects, inverts and updates, and step 2 is plain."""
    net = nn.SequentialCell(nn.Dense(3, 2))
    step = TrainStep(net, nn.MSELoss(), THOR(net, 0.1, factor_interval=9, inverse_interval=9))
    found: dict[str, tuple[float, float]] = {}
    for attribute, name in compile_time.GRAPHS.items():
        if hasattr(step, attribute):
            compile_time.watch(getattr(step, attribute), name, found)
    batch = Tensor(np.ones((4, 3), np.float32)), Tensor(np.ones((4, 2), np.float32))
    step(*batch)
    assert list(found) == ["capture", "refresh", "update"]
    before = dict(found)
    step(*batch)
    step(*batch)
    assert list(found) == [*before, "plain"] and {**found, **before} == found
    assert all(seconds > 0 for parts in found.values() for seconds in parts)


def test_a_process_that_is_killed_costs_its_own_row_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def process(
        what: str, option: str, function: Any, model: str, method: str, cache: None
    ) -> Measured:
        if method == "tkfac":
            raise ProcessEnded(f"{what}: was ended")
        return measured(1, 2, 3) if method == "sgd" else measured(2, 6, 3)

    monkeypatch.setattr(compile_time, "in_own_process", process)
    path = tmp_path / "found.json"
    arguments = ["--models", "resnet20", "--methods", "tkfac,eva", "--rounds", "2"]
    assert compile_time.main([*arguments, "--json", str(path)]) == 1
    rows = json.loads(path.read_text())["models"]["resnet20"]
    assert rows["tkfac"] == {} and rows["eva"]["ratio"] == 3.0
    shown = capsys.readouterr()
    assert (
        "| tkfac | ended |" in shown.out and "| eva | 2.0 (1.0) | 6.0 (3.0) | 3.00 |" in shown.out
    )
    assert shown.err.count("resnet20, tkfac: was ended") == 2


@pytest.mark.parametrize("flag", ["--models", "--methods"])
@pytest.mark.parametrize("text", ["", "sdg", "x\ny" * 200])
def test_unknown_names_are_one_line(
    flag: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compile_time.main([flag, text]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: unknown ") and error.count("\n") == 1 and len(error) <= 308


def test_without_mindcv_its_network_is_left_out_or_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compile_time.importlib.util, "find_spec", lambda name: None)
    assert compile_time._models(None) == ["resnet20", "resnet50"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pip install mindcv" in said
    assert compile_time.main(["--models", compile_time.NEEDS_MINDCV]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "pip install mindcv" in error
