"""The launcher: what msrun is told, and how a job ends. Real training is in test_two_ranks.py."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from test_rank_table import TWO, server, table

from mindspore_thor.errors import UserError
from mindspore_thor.launch import command as launch
from mindspore_thor.launch import host
from mindspore_thor.launch.rank_table import RankTable, parse_rank_table

ALONE = parse_rank_table(table(server("10.0.0.1", [1, 0], 6)), "t")
PAIR = parse_rank_table(TWO, "t")


def command_of(plan: launch.Plan) -> list[str]:
    return launch.msrun_command(plan, Path("logs"), 60, "train.py", ["--a", "b c"])


def test_a_number_of_processes_becomes_a_command_line() -> None:
    plan = launch.plan_for_number(3, "CPU", {"MASTER_PORT": "9000", "CUDA_VISIBLE_DEVICES": "0"})
    assert command_of(plan) == [
        *(sys.executable, "-c", launch._MSRUN),
        "--worker_num=3",
        "--local_worker_num=3",
        "--node_rank=0",
        "--master_addr=127.0.0.1",
        "--master_port=9000",
        "--log_dir=logs",
        "--cluster_time_out=60",
        "--join=False",
        *("train.py", "--a", "b c"),
    ]
    assert plan.environment == {}


def test_a_free_port_is_chosen() -> None:
    port = launch.plan_for_number(1, "CPU", {}).master_port
    assert 1024 <= port <= 65535


@pytest.mark.parametrize(
    ("rank_table", "environment", "expected"),
    [
        # The devices are shown in the order of their ranks: rank 0 is device 7.
        (ALONE, {"MASTER_PORT": "9000"}, (2, 2, 0, "127.0.0.1", 9000, "7,6")),
        (PAIR, {"SERVER_ID": "0"}, (4, 2, 0, "10.0.0.1", 8118, "0,1")),
        (
            PAIR,
            {"SERVER_ID": "10.0.0.2", "MASTER_ADDR": "m", "ASCEND_RT_VISIBLE_DEVICES": "5,4"},
            (4, 2, 1, "m", 8118, "4,5"),
        ),
        (PAIR, {"MASTER_PORT": "9001"}, (4, 2, 1, "10.0.0.1", 9001, "4,5")),
    ],
)
def test_a_rank_table_becomes_a_plan(
    rank_table: RankTable, environment: dict[str, str], expected: tuple[Any, ...]
) -> None:
    plan = launch.plan_for_table(rank_table, environment, ["10.0.0.2"])
    assert list(plan.environment) == ["ASCEND_RT_VISIBLE_DEVICES"]
    got = (plan.worker_num, plan.local_worker_num, plan.node_rank, plan.master_addr)
    assert (*got, plan.master_port, *plan.environment.values()) == expected


@pytest.mark.parametrize(
    ("devices", "target", "environment", "message"),
    [
        ("0", "CPU", {}, "DEVICE_NUM is 0"),
        ("-2", "CPU", {}, "DEVICE_NUM is -2"),
        ("2", "GPU", {"CUDA_VISIBLE_DEVICES": "3"}, "CUDA_VISIBLE_DEVICES shows 1 devices, 2 are"),
        ("2", "Ascend", {"ASCEND_RT_VISIBLE_DEVICES": "3"}, "ASCEND_RT_VISIBLE_DEVICES shows 1"),
        ("2", "GPU", {"CUDA_VISIBLE_DEVICES": "3,3"}, "give each device once"),
        ("2", "CPU", {"MASTER_PORT": "80"}, "MASTER_PORT is '80'"),
        ("2", "CPU", {"MASTER_PORT": "x"}, "MASTER_PORT is 'x'"),
        ("no.json", "CPU", {}, "no.json: no such rank table"),
        ("2", "CPU", {"MASTER_PORT": "123456789012"}, "MASTER_PORT is '123456789012'; give a port"),
        ("2", "CPU", {"MASTER_PORT": "9" * 5000}, "MASTER_PORT is '9999"),
        ("100000", "CPU", {}, "DEVICE_NUM is 100000, but this machine takes at most"),
        ("9" * 5000, "CPU", {}, "DEVICE_NUM is '9999"),
    ],
)
def test_what_cannot_be_planned(
    devices: str, target: str, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        launch.make_plan(devices, target, environment)


def test_hidden_devices_of_a_table_are_refused() -> None:
    environment = {"SERVER_ID": "1", "ASCEND_RT_VISIBLE_DEVICES": "0,4"}
    with pytest.raises(UserError, match="ASCEND_RT_VISIBLE_DEVICES hides device 5"):
        launch.plan_for_table(PAIR, environment, [])


@pytest.mark.parametrize("address", ["10.0.0.300", "a b", "-x", "h:8118"])
def test_a_master_that_is_no_host_is_refused(address: str) -> None:
    with pytest.raises(UserError, match=f"MASTER_ADDR is '{address}'; give the address"):
        launch.plan_for_table(PAIR, {"SERVER_ID": "0", "MASTER_ADDR": address}, [])


def test_more_devices_than_this_machine_has_processors_for() -> None:
    many = host.most_processes() + 1
    ranks = list(range(many))
    with pytest.raises(UserError, match=f"has {many} devices of this server, but this machine"):
        launch.plan_for_table(parse_rank_table(table(server("h", ranks)), "t"), {}, [])


def test_a_port_in_use_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("script.py").touch()
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        assert launch.main(["2", "script.py", "--train.device_target=CPU"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: port {port} for the scheduler: Address already in use; ")
    assert line.endswith("set MASTER_PORT to a free one")
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]
    host.check_port(host.free_port())


def test_a_server_without_an_address_is_refused() -> None:
    host.check_reachable("127.0.0.1")
    with pytest.raises(UserError, match=r"'no.such.invalid', the server with rank 0, has no addr"):
        host.check_reachable("no.such.invalid")  # RFC 6761: never resolved


def test_the_device_target_is_the_scripts() -> None:
    assert launch.device_target(["--x", "--train.device_target", "GPU"]) == "GPU"
    assert launch.device_target(["--train.device_target=Ascend"]) == "Ascend"
    assert launch.device_target([]) in ("CPU", "GPU", "Ascend")


def test_addresses_of_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    found = host.host_addresses()
    assert not any(name.startswith("127.") or name == "localhost" for name in found)
    monkeypatch.setattr(host.shutil, "which", lambda name: None)
    assert host.host_addresses() <= found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required"),
        (["2", "missing.py"], "missing.py: no such script; give the path of one"),
        (["--log_dir", "old", "2", "script.py"], "old: holds the logs of another job"),
        (["--log_dir", "script.py", "2", "script.py"], "script.py: not a folder"),
        (["0", "script.py"], "DEVICE_NUM is 0"),
        (["--log_dri", "x", "2", "script.py"], "unrecognized|no such script"),
    ],
)
def test_wrong_input_gives_one_line_and_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("script.py").touch()
    Path("old").mkdir()
    Path("old", "worker_0.log").touch()
    before = sorted(tmp_path.rglob("*"))
    assert launch.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert any(part in line for part in message.split("|"))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_only_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("script.py").touch()
    Path("t.json").write_text(json.dumps(table(server("10.0.0.1", [0, 1], 2))))
    assert launch.main(["--dry_run", "t.json", "script.py", "--dry_run", "a b"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("ASCEND_RT_VISIBLE_DEVICES=2,3 ")
    assert printed.endswith(" script.py --dry_run 'a b'\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["script.py", "t.json"]


# ---- jobs of small scripts, started by something that behaves like msrun

FAKE_MSRUN = """
import os, signal, subprocess, sys
folder, script, *arguments = sys.argv[1:]
if arguments[0] == "early":
    os.kill(int(os.environ["LAUNCHER"]), signal.SIGINT)
if arguments[0] == "port":
    sys.exit("Address already in use")
for name, role, rank in [("scheduler", "MS_SCHED", 0), ("worker_0", "MS_WORKER", 0),
                         ("worker_1", "MS_WORKER", 1)]:
    environment = {**os.environ, "MS_ROLE": role, "RANK_ID": str(rank)}
    with open(os.path.join(folder, name + ".log"), "w") as log:
        subprocess.Popen(["python", script, *arguments], env=environment, stdout=log,
                         stderr=subprocess.STDOUT, start_new_session=role == "MS_WORKER")
"""
WORKER = """
import os, signal, sys, time
from pathlib import Path
case, folder = sys.argv[1], Path(sys.argv[2])
rank = int(os.environ["RANK_ID"])
launcher = int(os.environ["LAUNCHER"])
scheduler = os.environ["MS_ROLE"] == "MS_SCHED"
def wait_for(name):
    while not (folder / name).exists():
        time.sleep(0.02)
def stop(number, frame):
    if rank == 0:
        time.sleep(0.7)  # the other one is long gone
        (folder / "saved").touch()
    sys.exit(128 + number)
if case == "stopped" and not scheduler:
    signal.signal(signal.SIGTERM, stop)
(folder / f"up{rank}{scheduler}").touch()
if scheduler:
    (folder / "pid").write_text(str(os.getpid()))
    (folder / "pid").rename(folder / "scheduler")
    wait_for("over")
    sys.exit(0)
print("rank", rank, sys.executable, os.environ["PATH"].split(":")[0], flush=True)
if case == "good":
    if rank == 0:
        (folder / "over").touch()
    sys.exit(0)
if case == "stopped":
    if rank == 1:
        wait_for("up0False")
        os.kill(launcher, signal.SIGTERM)
elif case == "suspended" and rank == 0:
    wait_for("suspended")
    state = Path("/proc", (folder / "suspended").read_text(), "stat")
    while state.read_text().split()[2] != "T":
        time.sleep(0.02)
    print("Traceback of a collective", file=sys.stderr)
    sys.exit(1)
elif rank == 1 and case != "early":
    wait_for("up0False")
    if case == "suspended":
        (folder / "number").write_text(str(os.getpid()))
        (folder / "number").rename(folder / "suspended")
        os.kill(os.getpid(), signal.SIGSTOP)
    if case == "headless":
        wait_for("scheduler")
        os.kill(int((folder / "scheduler").read_text()), signal.SIGKILL)
        time.sleep(100)  # until the launcher ends it
    print("[INFO] noise")
    if case == "wrong":
        print("error: this is wrong", file=sys.stderr)
        sys.exit(2)
    print("last words", flush=True)
    if case == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(7)
time.sleep(100)
"""
DRIVER = """
import os, sys
from pathlib import Path
from mindspore_thor.launch import job
here = Path(sys.argv[1])
job._GRACE = 1.0
for case in sys.argv[2:]:
    folder = here / case
    folder.mkdir()
    logs = folder / "logs"
    command = [sys.executable, str(here / "msrun.py"), str(logs), str(here / "worker.py"), case]
    environment = {"LAUNCHER": str(os.getpid())}
    code = job.Job([*command, str(folder)], environment, [0, 1], logs).run()
    print("case", case, "code", code, flush=True)
    print("case", case, file=sys.stderr, flush=True)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
def test_how_a_job_ends(tmp_path: Path) -> None:
    for name, text in (("msrun.py", FAKE_MSRUN), ("worker.py", WORKER), ("driver.py", DRIVER)):
        (tmp_path / name).write_text(text)
    cases = ["good", "failed", "killed", "wrong", "stopped", "early", "headless", "suspended"]
    cases.append("port")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "driver.py"), str(tmp_path), *cases],
        env={**launch.os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    codes = [line.split()[1::2] for line in done.stdout.splitlines() if line.startswith("case ")]
    assert codes == [
        ["good", "0"],
        ["failed", "7"],
        ["killed", str(128 + 9)],
        ["wrong", "2"],
        ["stopped", str(128 + 15)],
        ["early", str(128 + 2)],  # stopped before the ranks had started
        ["headless", str(128 + 9)],
        ["suspended", str(128 + 19)],
        ["port", "1"],  # msrun itself failed
    ]
    # Rank 0 is shown, by this very interpreter, without the launcher's `python` in its PATH.
    shown = [line for line in done.stdout.splitlines() if line.startswith("rank ")]
    path = launch.os.environ["PATH"].split(":")[0]
    assert shown[:5] == [f"rank 0 {sys.executable} {path}"] * 5

    parts = re.split(r"^case \w+\n", done.stderr, flags=re.MULTILINE)
    errors = dict(zip(cases, parts))
    assert errors["good"] == errors["stopped"] == errors["early"] == ""
    for case, how in (("failed", "ended with exit code 7"), ("killed", "was killed by signal 9")):
        log = tmp_path / case / "logs" / "worker_1.log"
        first, second, *rest = errors[case].splitlines()
        assert first == f"error: rank 1 {how}; the end of {log}:"
        assert second.startswith("rank 1 ")
        assert rest == ["last words"]
    wrong = tmp_path / "wrong" / "logs" / "worker_1.log"
    assert errors["wrong"] == f"error: this is wrong (rank 1, {wrong})\n"
    # The first cause, not what it led to: the launcher's kill, the other rank's exception.
    for case, who, how in (
        ("headless", "scheduler", "killed by signal 9"),
        ("suspended", "rank 1", "suspended by signal 19"),
    ):
        (line,) = errors[case].splitlines()
        assert line.startswith(f"error: {who} was {how}, the ranks could not go on without it (")
    first, second = errors["port"].splitlines()
    assert first.startswith("error: msrun failed; ") and "set MASTER_PORT" in first
    assert first.endswith(f"the end of {tmp_path / 'port' / 'logs' / 'msrun.log'}:")
    assert second == "Address already in use"
    assert (tmp_path / "stopped" / "saved").exists()
    for case in cases:
        assert not list((tmp_path / case / "logs").glob(".python-*"))
