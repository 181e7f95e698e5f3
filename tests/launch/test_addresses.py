"""Addresses of hosts and devices; rank tables whose depth is near the interpreter's limit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mindspore_thor.errors import UserError
from mindspore_thor.launch.hccn import parse_tool_output
from mindspore_thor.launch.host import is_address, is_host
from mindspore_thor.launch.rank_table import read_rank_table

TABLE = {
    "version": "1.0",
    "server_count": "1",
    "server_list": [{"server_id": "10.0.0.1", "device": [{"device_id": "0", "rank_id": "0"}]}],
    "status": "completed",
}


@pytest.mark.parametrize("scope", ["", " ", "\n", "a\nb", "\ud800", "a;b", "a%b", "a" * 16, "é"])
def test_the_interface_of_an_address_is_a_name(tmp_path: Path, scope: str) -> None:
    assert is_address("fe80::1%eth0.1") and is_host("fe80::1%eth0.1")
    assert parse_tool_output("ipaddr:fe80::1%eth0.1") == "fe80::1%eth0.1"
    text = f"fe80::1%{scope}x y" if scope == " " else f"fe80::1%{scope}"
    assert not is_address(text) and not is_host(text)
    assert not is_address("10.0.0.1%eth0")  # only IPv6 has them
    path = tmp_path / "any.json"
    path.write_text(json.dumps(TABLE).replace('"10.0.0.1"', json.dumps(f"{text}!")))
    with pytest.raises(UserError) as caught:
        read_rank_table(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) <= 300


@pytest.mark.parametrize("key", sorted(TABLE))
def test_any_depth(tmp_path: Path, key: str) -> None:
    path = tmp_path / "any.json"
    path.write_text(json.dumps(TABLE))
    assert read_rank_table(path).size == 1
    for depth in (10, *range(900, 1000, 9), 10**5):
        brackets = "[" * depth + "]" * depth
        path.write_text(json.dumps({**TABLE, key: "@"}).replace('"@"', brackets))
        with pytest.raises(UserError) as caught:
            read_rank_table(path)
        assert str(caught.value).isprintable() and len(str(caught.value)) <= 300
