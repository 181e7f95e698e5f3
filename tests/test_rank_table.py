"""Rank tables: what is refused, which server this is, merging."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Callable

import pytest

from mindspore_thor.errors import UserError
from mindspore_thor.parallel.rank_table import (
    find_server,
    merge_rank_tables,
    parse_rank_table,
    read_rank_table,
)

Tree = dict[str, Any]


def server(name: str, ranks: list[int], first_device: int = 0) -> Tree:
    return {
        "server_id": name,
        "device": [
            {
                "device_id": str(first_device + number),
                "device_ip": f"192.168.{100 + number}.{rank + 1}",
                "rank_id": str(rank),
            }
            for number, rank in enumerate(ranks)
        ],
        "host_nic_ip": "reserve",
    }


def table(*servers: Tree) -> Tree:
    return {
        "version": "1.0",
        "server_count": str(len(servers)),
        "server_list": list(servers),
        "status": "completed",
    }


TWO = table(server("10.0.0.1", [0, 1]), server("10.0.0.2", [2, 3], 4))


def test_a_table_is_read_and_written_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(TWO))
    read = read_rank_table(path)
    assert read.size == 4
    assert [device.device_id for device in read.servers[1].devices] == [4, 5]
    assert read.servers[1].address == "10.0.0.2"
    copied = tmp_path / "copy.json"
    read.write(copied)
    assert json.loads(copied.read_text()) == TWO
    assert sorted(tmp_path.iterdir()) == [copied, path]


def test_numbers_may_stand_without_quotes_and_servers_in_any_order() -> None:
    tree = table(server("b", [2, 3]), server("a", [1, 0]))
    tree["server_count"] = 2
    tree["server_list"][0]["host_nic_ip"] = "10.1.0.7"
    for entry in tree["server_list"]:
        for device in entry["device"]:
            device.update(device_id=int(device["device_id"]), rank_id=int(device["rank_id"]))
    read = parse_rank_table(tree, "t")
    assert [entry.server_id for entry in read.servers] == ["a", "b"]
    assert [device.rank_id for device in read.servers[0].devices] == [0, 1]
    assert [device.device_id for device in read.servers[0].devices] == [1, 0]
    assert read.servers[1].address == "10.1.0.7"


def _drop(*path: Any) -> Callable[[Tree], None]:
    def change(tree: Any) -> None:
        for key in path[:-1]:
            tree = tree[key]
        del tree[path[-1]]

    return change


def _set(value: Any, *path: Any) -> Callable[[Tree], None]:
    def change(tree: Any) -> None:
        for key in path[:-1]:
            tree = tree[key]
        tree[path[-1]] = value

    return change


FIRST = ("server_list", 0, "device", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop("version"), "the table has no 'version'"),
        (_set("1.2", "version"), "version is '1.2', only 1.0 is known"),
        (_set("initializing", "status"), "status is 'initializing', not 'completed'"),
        (_drop("status"), "has no 'status'"),
        (_drop("server_list"), "has no 'server_list'"),
        (_set([], "server_list"), "'server_list' of the table is not a list of entries"),
        (_set("3", "server_count"), "server_count is 3, but server_list has 2"),
        (_set("two", "server_count"), "server_count is 'two'; it must be a whole number"),
        (_drop("server_list", 1, "server_id"), "server 1 has no 'server_id'"),
        (_set("10.0.0.2", "server_list", 0, "server_id"), "server_id 10.0.0.2 appears twice"),
        (_drop("server_list", 0, "device"), "server 10.0.0.1 has no 'device'"),
        (_drop(*FIRST, "rank_id"), "a device of 10.0.0.1 has no 'rank_id'"),
        (_set("-1", *FIRST, "device_id"), "device_id is '-1'"),
        (_set("1", *FIRST, "device_id"), "10.0.0.1: device_id 1 appears twice"),
        (_set("3", *FIRST, "rank_id"), "rank_id 3 appears twice"),
        (_set("4", *FIRST, "rank_id"), "4 devices need ranks 0 to 3, but rank 0 is missing"),
        (_drop(*FIRST), "rank_id|rank 0 is missing"),
        (_set("", *FIRST, "device_ip"), "device 0 of 10.0.0.1 has no device_ip"),
        (_set("text", "server_list", 0), "server 0 is not a JSON object"),
    ],
)
def test_a_wrong_table_gives_one_line_with_its_name(
    change: Callable[[Tree], None], message: str
) -> None:
    tree = copy.deepcopy(TWO)
    change(tree)
    with pytest.raises(UserError, match=message) as caught:
        parse_rank_table(tree, "my.json")
    assert str(caught.value).startswith("my.json: ")
    assert "\n" not in str(caught.value)


def test_what_msrun_cannot_start_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"a has 1 devices, b has 2; msrun needs equally many.*hccl_tools\.py$"
    ):
        parse_rank_table(table(server("a", [0]), server("b", [1, 2])), "t")
    with pytest.raises(
        UserError, match=r"ranks of a are 0, 2; msrun needs consecutive.*hccl_tools\.py$"
    ):
        parse_rank_table(table(server("a", [0, 2]), server("b", [1, 3])), "t")


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no such rank table"), ("{", ":1: not a JSON file"), ("[]", "not a JSON object")],
)
def test_a_file_that_is_no_table(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "t.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_rank_table(path)


def test_files_where_folders_should_be_and_the_reverse(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*\(Is a directory\); give a readable JSON"):
        read_rank_table(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*\(Not a directory\); choose another"):
        parse_rank_table(TWO, "t").write(tmp_path / "file" / "t.json")


def test_this_server_is_found() -> None:
    read = parse_rank_table(TWO, "t")
    assert find_server(read, "1", []) == 1
    assert find_server(read, "10.0.0.2", ["10.0.0.1"]) == 1
    assert find_server(read, None, ["host", "10.0.0.2"]) == 1
    assert find_server(read, "", ["10.0.0.1"]) == 0
    alone = parse_rank_table(table(server("10.0.0.9", [0])), "t")
    assert find_server(alone, None, []) == 0  # in a container the host's address is not visible


@pytest.mark.parametrize(
    ("wanted", "addresses", "message"),
    [
        ("2", [], "SERVER_ID is '2'; set it to a number from 0 to 1 or to one of 10.0.0.1, "),
        ("10.0.0.3", [], "SERVER_ID is '10.0.0.3'"),
        (None, ["10.0.0.3"], r"none of the rank table's servers \(10.0.0.1, 10.0.0.2\)"),
        (None, ["10.0.0.1", "10.0.0.2"], "more than one of the rank table's servers"),
    ],
)
def test_a_server_that_is_not_in_the_table(
    wanted: str | None, addresses: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        find_server(parse_rank_table(TWO, "t"), wanted, addresses)


def test_merging_numbers_the_ranks_anew() -> None:
    first = parse_rank_table(table(server("b", [0, 1], 6)), "t")
    second = parse_rank_table(table(server("a", [0, 1])), "t")
    merged = merge_rank_tables([first, second])
    rows = [
        (entry.server_id, device.device_id, device.rank_id)
        for entry in merged.servers
        for device in entry.devices
    ]
    assert rows == [("b", 6, 0), ("b", 7, 1), ("a", 0, 2), ("a", 1, 3)]
    assert parse_rank_table(merged.to_dict(), "t") == merged
    with pytest.raises(UserError, match="server_id b appears twice"):
        merge_rank_tables([first, first])
    with pytest.raises(UserError, match="equally many"):
        merge_rank_tables([first, parse_rank_table(table(server("a", [0])), "t")])
