"""Rank tables: what is refused, which server this is, merging."""

from __future__ import annotations

import copy
import ipaddress
import json
from pathlib import Path
from typing import Any, Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mindspore_thor.errors import UserError
from mindspore_thor.launch.rank_table import (
    MAX_BYTES,
    MAX_DEVICE,
    RankTable,
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
        (_set("99999", *FIRST, "device_id"), "device_id is '99999'; .* from 0 to 4095"),
        (_set(-1, *FIRST, "rank_id"), "rank_id is -1; .* from 0 to 4095"),
        (_set(10**5000, *FIRST, "rank_id"), "rank_id is <whole number of about 5001 digits>"),
        (_set(True, "server_count"), "server_count is True"),
        (_set("10.0.0.300", *FIRST, "device_ip"), "device_ip '10.0.0.300' of 10.0.0.1 is no IP"),
        (_set(["10.0.0.1"], *FIRST, "device_ip"), r"device_ip is \['10.0.0.1'\]; it must be text"),
        (
            _set("10.0.0.256", "server_list", 0, "server_id"),
            "server_id '10.0.0.256' of server 0 is",
        ),
        (_set("a b", "server_list", 0, "server_id"), "server_id 'a b' of server 0 is no address"),
        (_set("h:123456789012", "server_list", 0, "host_nic_ip"), "host_nic_ip 'h:123456789012'"),
        (_set("\ud800\n", "server_list", 0, "server_id"), r"server_id '\\ud800' of server 0"),
        (_set({"a": [[[[[[1]]]]]]}, "version"), "version is .*, only 1.0 is known"),
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
    [
        (None, "no such rank table"),
        ("{", ":1: not a JSON file"),
        ("[]", "not a JSON object"),
        ("[" * 100_000, "nested too deeply"),
        (f'{{"version": {"9" * 6000}}}', "not a JSON file"),
        ("\ufeff[]", "not a JSON object"),  # with the mark that Windows' editors write
        (" " * (MAX_BYTES + 1), f"more than {MAX_BYTES} bytes"),
    ],
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


# ---- whatever stands in the file: a table that msrun can start, or one line

_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["0", "1", "10.0.0.1", "reserve", "1.0", "completed", "-1", "²", ""]),
)
_TREES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
_PLACES = [
    *[(key,) for key in TWO],
    *[("server_list", number) for number in (0, 1)],
    *[("server_list", 0, key) for key in ("server_id", "device", "host_nic_ip")],
    ("server_list", 1, "device", 1),
    *[("server_list", 1, "device", 0, key) for key in ("device_id", "device_ip", "rank_id")],
]


def assert_sound(read: RankTable) -> None:
    """What msrun and MindSpore need; see their documentation of rank tables."""
    ranks = [device.rank_id for entry in read.servers for device in entry.devices]
    assert ranks == list(range(read.size)) and 0 < read.size <= MAX_DEVICE + 1
    assert len({len(entry.devices) for entry in read.servers}) == 1
    assert len({entry.server_id for entry in read.servers}) == len(read.servers)
    for entry in read.servers:
        numbers = [device.device_id for device in entry.devices]
        assert len(set(numbers)) == len(numbers) and 0 <= min(numbers) <= max(numbers) <= 4095
        assert entry.address.isprintable() and " " not in entry.address and entry.address
        for device in entry.devices:
            assert device.device_ip or len(read.servers) == 1
            assert not device.device_ip or str(ipaddress.ip_address(device.device_ip))


def assert_one_line(error: UserError) -> None:
    text = str(error)
    assert text.isprintable() and len(text) < 300 and ";" in text


@settings(max_examples=150, deadline=None)
@given(place=st.sampled_from(_PLACES), value=_TREES)
def test_any_value_at_any_place(place: tuple[Any, ...], value: Any) -> None:
    tree = copy.deepcopy(TWO)
    _set(value, *place)(tree)
    try:
        assert_sound(parse_rank_table(tree, "my.json"))
    except UserError as error:
        assert_one_line(error)


@settings(max_examples=150, deadline=None)
@given(
    content=st.one_of(
        st.binary(max_size=60),
        _TREES.map(lambda tree: json.dumps(tree).encode()),
        # A good file with a few bytes exchanged.
        st.tuples(st.integers(0, len(json.dumps(TWO)) - 1), st.binary(max_size=3)).map(
            lambda change: (
                json.dumps(TWO).encode()[: change[0]]
                + change[1]
                + json.dumps(TWO).encode()[change[0] + len(change[1]) :]
            )
        ),
    )
)
@example(content=b"\xff\xfe")
@example(content=b'{"a":' * 100_000)
@example(content=json.dumps(TWO).encode("utf-16"))
def test_any_content(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    try:
        assert_sound(read_rank_table(path))
    except UserError as error:
        assert_one_line(error)
