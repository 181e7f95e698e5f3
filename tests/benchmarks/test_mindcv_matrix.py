"""The matrix of mindcv's nets: order, one process per row, and its tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import mindcv_matrix as program
from benchmarks.harness.spec import RESULTS, ROOT
from benchmarks.matrix import nets, page, rows
from benchmarks.matrix.nets import METHODS, NETS, WANTED, options_of
from mindspore_thor.errors import UserError

ROW: dict[str, Any] = {
    "rate": nets.RATE,
    **{"weights": 200, "weights_moved": 150, "skipped": 0, "checkpoint": True},
    **{"types": {"Conv2d": [3, 4], "BatchNorm2d": [0, 5], "Dense": [1, 1]}},
    "reasons": {"BatchNorm2d: a norm": 5, "Conv2d: its weight is shared": 1, "Net: Net: none": 1},
    **{"losses": [2.5, 2.4, 2.3, 2.2, 2.125], "seconds": [[30.0, 20.0], [40.0, 31.0]]},
    "graphs": {"capture": [10.25, 1.0], "plain": [3.5, 0.5]},
}


def test_all_methods_of_the_wanted_families_come_before_the_others() -> None:
    order = program.order(list(NETS), list(METHODS))
    assert len(order) == len(set(order)) == len(NETS) * len(METHODS)
    wanted = WANTED * len(METHODS)
    assert {net for net, _ in order[:wanted]} == set(list(NETS)[:WANTED])
    assert {method for _, method in order[:WANTED]} == {"thor"}
    assert len({NETS[net].family for net in list(NETS)[:WANTED]}) == WANTED


def test_kfac_alone_leaves_out_what_is_too_large() -> None:
    assert options_of("vgg11", "kfac")["exclude"] == ["classifier.0"]
    assert "exclude" not in options_of("vgg11", "thor")
    assert "exclude" not in options_of("resnet18", "kfac")


def fake(folder: Path, text: str) -> Path:
    path = folder / "program.py"
    path.write_text(f"import json, os, signal, sys, time\n{text}\n", encoding="utf-8")
    return path


def stored(folder: Path) -> dict[str, Any]:
    return json.loads(rows.path_of(folder, "resnet18", "thor").read_text(encoding="utf-8"))


def test_a_row_is_run_once_and_told_what_to_do(tmp_path: Path) -> None:
    text = (
        "json.dump({'losses': sys.argv[1:]}, "
        "open(f'{sys.argv[5]}/{sys.argv[2]}-{sys.argv[3]}.json', 'x'))"
    )
    arguments = (tmp_path, "resnet18", "thor", fake(tmp_path, text), 60)
    rows.run_row(*arguments)
    told = ["--row", "resnet18", "thor", "--results_dir", str(tmp_path), "--limit", "60"]
    assert stored(tmp_path)["losses"] == told
    assert rows.run_row(*arguments) == "is stored"


@pytest.mark.parametrize(
    ("text", "limit", "key", "value"),
    [
        ("os.kill(os.getpid(), signal.SIGXCPU)", 60, "limit", 60),
        ("time.sleep(60)", 1, "failed", "hung for 1 s"),
        ("sys.exit(7)", 60, "failed", "ended with exit code 7"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 60, "failed", "ended by signal 9"),
    ],
)
def test_how_a_row_ends_without_a_result_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, limit: int, key: str, value: Any
) -> None:
    monkeypatch.setattr(rows, "_WAITS", 1)
    rows.run_row(tmp_path, "resnet18", "thor", fake(tmp_path, text), limit)
    row = stored(tmp_path)
    assert row[key] == value
    assert (row["net"], row["method"], row["options"]) == ("resnet18", "thor", METHODS["thor"])


def test_an_error_is_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, method: str) -> dict[str, Any]:
        raise RuntimeError("For 'AvgPool', no room.\n\n------\n- C++ Call Stack\n------\nnode.cc")

    monkeypatch.setattr(rows, "measure", broken)
    limits: list[Any] = []
    monkeypatch.setattr(rows.resource, "setrlimit", lambda *given: limits.append(given))
    rows.run_here(tmp_path, "resnet18", "thor", 50)
    assert limits == [(rows.resource.RLIMIT_CPU, (50, 80))]
    assert stored(tmp_path)["failed"] == "RuntimeError: For 'AvgPool', no room."


def test_without_mindcv_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mindcv", None)
    with pytest.raises(UserError, match="pip install mindcv"):
        nets.create("resnet18")


def test_cells_say_what_became_of_a_row() -> None:
    assert page.outcome(ROW) == "31 (14); 2.50 to 2.12"
    rising = {**ROW, "losses": [2.0, 2.0], "checkpoint": False, "skipped": 3}
    assert page.outcome(rising) == (
        "31 (14); 2.00 to 2.00, **not fallen**, **checkpoint does not load**, **3 skipped**"
    )
    assert page.outcome({**ROW, "rate": 0.5}) == "31 (14); 2.50 to 2.12, rate 0.5"
    assert page.outcome({"limit": 420}) == "not done in 420 CPU s"
    assert page.outcome({"failed": "x"}) == "failed"
    assert page.outcome(None) == "not run"


def test_the_tables_are_of_the_stored_rows(tmp_path: Path) -> None:
    for net, method, row in (
        ("resnet18", "thor", ROW),
        ("resnet18", "kfac", {**ROW, "weights_moved": 100, "losses": [1.0, 1.5]}),
        ("vgg11", "thor", {"failed": "RuntimeError: no room"}),
        ("vgg11", "fngd", {"limit": 9}),
    ):
        rows.store(rows.path_of(tmp_path, net, method), row)
    text = page.section(page.load(tmp_path))
    lines = text.splitlines()
    assert lines[0].startswith("4 rows; 2 were trained, of 1 families: the loss fell in 1, ")
    assert (
        "| ResNet | resnet18 | 64, 8 | 31 (14); 2.50 to 2.12 "
        "| 31 (14); 1.00 to 1.50, **not fallen** | not run |"
    ) in lines
    assert "| VGG | vgg11 | 224, 4 | failed | not run | not done in 9 CPU s |" in lines
    assert "| resnet18 | Conv2d 3 of 4, Dense 1 | BatchNorm2d 5 | 0.0 | 75.0 | 50.0 | - |" in lines
    assert "- `vgg11`, THOR: RuntimeError: no room" in lines
    assert "- Conv2d: its weight is shared (resnet18)" in lines
    assert "- Net: none (resnet18)" in lines
    assert "a norm" not in text
    waiting = [net for net in NETS if net not in ("resnet18", "vgg11")]
    assert f"Not run yet: {', '.join(waiting)}." in lines


def test_the_page_is_up_to_date() -> None:
    assert page.report(ROOT, RESULTS / "mindcv", check=True) is None


def test_wrong_input_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--nets", "resnet19"]) == 2
    assert "--nets: unknown 'resnet19'" in capfd.readouterr().err
    assert program.main(["--check"]) == 2
