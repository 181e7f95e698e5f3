"""``scripts/hccl_tools.py``: ranges, file names, and where the devices' addresses come from.

The texts of ``hccn_tool`` and ``/etc/hccn.conf`` below were written by hand after public
documentation and scripts; they were not recorded from a device.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from places import ROOT

from mindspore_thor.errors import UserError
from mindspore_thor.launch import hccn
from mindspore_thor.launch.rank_table import read_rank_table

SCRIPT = ROOT / "scripts" / "hccl_tools.py"

TOOL_OUTPUT = "ipaddr:192.168.{0}.101\nnetmask:255.255.255.0\n"
TOOL_WITHOUT_ADDRESS = "Get ipconf failed, because no ip was preset there!\n"
CONFIGURATION = """# written by hccn_tool
address_0=192.168.100.101
netmask_0=255.255.255.0
netdetect_0=192.168.100.1
address_1=192.168.101.101
netmask_1=255.255.255.0
gateway_1=192.168.101.1
 address_15 = 192.168.115.101
send_arp_status_0=1
"""


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("hccl_tools", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(hccn, "ask_tool", lambda device: TOOL_OUTPUT.format(100 + device))
    monkeypatch.setattr(hccn, "CONFIGURATION", tmp_path / "hccn.conf")
    monkeypatch.chdir(tmp_path)
    return module


def rows(path: Path) -> list[tuple[int, str, int]]:
    (server,) = read_rank_table(path).servers
    return [(device.device_id, device.device_ip, device.rank_id) for device in server.devices]


def test_one_server(tools: ModuleType) -> None:
    path = tools.run(["--device_num", "[0,8)", "--server_ip", "10.0.0.1"])
    assert path.name == "hccl_8p_01234567_10.0.0.1.json"
    assert rows(path) == [(n, f"192.168.{100 + n}.101", n) for n in range(8)]
    assert json.loads(path.read_text())["server_list"][0]["server_id"] == "10.0.0.1"


def test_more_than_nine_devices(tools: ModuleType) -> None:
    path = tools.run(["--device_num", "[ 8, 16 )", "--server_ip", "h"])
    assert path.name == "hccl_8p_89101112131415_h.json"
    assert rows(path) == [(8 + n, f"192.168.{108 + n}.101", n) for n in range(8)]


def test_logical_numbers_count_the_visible_devices(tools: ModuleType) -> None:
    where = ["--visible_devices", "0,1,4", "--server_ip", "h"]
    path = tools.run(["--device_num", "[1,3)", *where])
    assert path.name == "hccl_2p_12_h.json"
    assert rows(path) == [(1, "192.168.101.101", 0), (4, "192.168.104.101", 1)]


def test_the_configuration_file_stands_in_for_the_tool(
    tools: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    hccn.CONFIGURATION.write_text(CONFIGURATION)
    answers = {0: "", 1: TOOL_WITHOUT_ADDRESS}
    monkeypatch.setattr(hccn, "ask_tool", lambda device: answers[device])
    path = tools.run(["--device_num", "[0,2)", "--server_ip", "h"])
    assert rows(path) == [(0, "192.168.100.101", 0), (1, "192.168.101.101", 1)]
    expected = {0: "192.168.100.101", 1: "192.168.101.101", 15: "192.168.115.101"}
    assert hccn.parse_configuration(CONFIGURATION) == expected


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (TOOL_OUTPUT.format(100), "192.168.100.101"),
        ("IPADDR: 10.86.1.80 \nNETMASK: 255.255.255.0\n", "10.86.1.80"),
        ("ipaddr:fe80::1\n", "fe80::1"),
        (TOOL_WITHOUT_ADDRESS, None),
        ("ipaddr:\n", None),
        ("", None),
    ],
)
def test_output_of_the_tool(text: str, address: str | None) -> None:
    assert hccn.parse_tool_output(text) == address


def test_several_servers_are_merged(tools: ModuleType) -> None:
    tables = [
        tools.run(["--device_num", "[0,2)", "--server_ip", f"10.0.0.{number}"]) for number in (2, 1)
    ]
    path = tools.run(["--merge", *map(str, tables)])
    assert path.name == "hccl_2s_4p.json"
    merged = read_rank_table(path)
    assert [server.server_id for server in merged.servers] == ["10.0.0.2", "10.0.0.1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device_num", "8"], "--device_num is '8'; give a range"),
        (["--device_num", "[4,4)"], r"--device_num is '\[4,4\)'"),
        (["--device_num", "[0,4]"], "--device_num is"),
        (["--visible_devices", "0,0"], "--visible_devices is '0,0'; give each device once"),
        (["--visible_devices", "0,a"], "--visible_devices is '0,a'"),
        (
            ["--device_num", "[0,4)", "--visible_devices", "4,5"],
            "reaches device 3, but --visible_devices has 2",
        ),
        (["--merge", "missing.json"], "missing.json: no such rank table"),
        (["--output_dir", "missing"], "cannot write the rank table"),
    ],
)
def test_wrong_arguments(tools: ModuleType, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tools.run(["--server_ip", "h", *arguments])
    assert list(Path().iterdir()) == []


def test_a_device_without_address(tools: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hccn, "ask_tool", lambda device: TOOL_WITHOUT_ADDRESS)
    with pytest.raises(UserError, match=r"device 0: neither hccn_tool nor .* knows its address"):
        tools.run(["--server_ip", "h"])


def test_the_command_line_prints_one_line_and_leaves_with_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--device_num", "[8,0)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: --device_num is '[8,0)'")
    assert list(tmp_path.iterdir()) == []
