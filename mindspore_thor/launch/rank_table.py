"""HCCL rank tables (JSON, version 1.0): reading, checking, writing and joining them.

MindSpore no longer starts from a rank table; ``msrun`` starts the processes. What it has to be told
stands in the table: how many ranks there are, how many of them here, and where the first one is.
Every check here is one that ``msrun`` or the devices would otherwise fail in much later.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindspore_thor.errors import UserError, quoted
from mindspore_thor.files import write_file
from mindspore_thor.launch.host import is_address, is_host

VERSION = "1.0"
COMPLETED = "completed"
_NO_HOST_NIC = "reserve"
MAX_DEVICE = 4095
"""Largest number of a device, and of a rank, that MindSpore takes."""

MAX_BYTES = 1 << 24
"""Largest file that is read as a rank table: MAX_DEVICE devices need a tenth of it."""

_REMEDY = "make the table anew with scripts/hccl_tools.py"


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        device_id: Its physical number on the server.
        device_ip: Address of its network interface; may be empty where there is one server.
        rank_id: Its rank in the whole job.
    """

    device_id: int
    device_ip: str
    rank_id: int


@dataclass(frozen=True)
class Server:
    """One server.

    Attributes:
        server_id: Its name in the table, usually its address.
        devices: Its devices, by rank.
        host_nic_ip: Address of the host's own interface, or "" where the table has none.
    """

    server_id: str
    devices: tuple[Device, ...]
    host_nic_ip: str = ""

    @property
    def address(self) -> str:
        """The address at which the other servers reach this one."""
        return self.host_nic_ip or self.server_id


@dataclass(frozen=True)
class RankTable:
    """A checked table: ranks 0 .. n-1, consecutive on each server, as many on each.

    Attributes:
        servers: The servers, by rank.
    """

    servers: tuple[Server, ...]

    @property
    def size(self) -> int:
        """Number of ranks of the whole job."""
        return sum(len(server.devices) for server in self.servers)

    def to_dict(self) -> dict[str, Any]:
        """Return the table as it stands in the file; every number is text there."""
        return {
            "version": VERSION,
            "server_count": str(len(self.servers)),
            "server_list": [
                {
                    "server_id": server.server_id,
                    "device": [
                        {
                            "device_id": str(device.device_id),
                            "device_ip": device.device_ip,
                            "rank_id": str(device.rank_id),
                        }
                        for device in server.devices
                    ],
                    "host_nic_ip": server.host_nic_ip or _NO_HOST_NIC,
                }
                for server in self.servers
            ],
            "status": COMPLETED,
        }

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Args:
            path: The file.

        Raises:
            UserError: If it cannot be written.
        """
        content = (json.dumps(self.to_dict(), indent=4) + "\n").encode("utf-8")
        try:
            write_file(path, [content], len(content))
        except UserError as error:
            cause = error.__cause__
            reason = cause.strerror if isinstance(cause, OSError) else error
            raise UserError(
                f"{path}: cannot write the rank table ({reason}); choose another folder"
            ) from None


def read_rank_table(path: Path) -> RankTable:
    """Read and check a rank table.

    Args:
        path: The JSON file.

    Returns:
        The table.

    Raises:
        UserError: If the file cannot be read or is no usable table.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such rank table; give a JSON file or a number of devices"
        ) from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot read the rank table ({error.strerror}); give a readable JSON file"
        ) from None
    except ValueError:  # NUL in the path
        raise UserError(f"{quoted(str(path))}: no path of a file; give a JSON file") from None
    return parse_rank_table(_parse_json(content, str(path)), str(path))


def _parse_json(content: bytes, source: str) -> Any:
    if len(content) > MAX_BYTES:
        raise UserError(f"{source}: more than {MAX_BYTES} bytes are no rank table; {_REMEDY}")
    try:
        return json.loads(content.decode("utf-8-sig"), parse_int=_short_integer)
    except RecursionError:
        raise UserError(f"{source}: nested too deeply for a rank table; {_REMEDY}") from None
    except ValueError as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(f"{source}{line}: not a JSON file; {_REMEDY}") from None


def _short_integer(text: str) -> int:
    if len(text) > 20:  # Python would take long, or refuse
        raise ValueError("a number with too many digits")
    return int(text)


def parse_rank_table(tree: Any, source: str) -> RankTable:
    """Check a rank table.

    Args:
        tree: What stands in the JSON file.
        source: The file's name, for messages.

    Returns:
        The table, servers and devices ordered by rank.

    Raises:
        UserError: If anything is missing or contradicts the rest.
    """
    version = _get(tree, "version", source, "the table")
    if version not in (VERSION, float(VERSION)) or isinstance(version, bool):
        raise UserError(
            f"{source}: version is {quoted(version)}, only {VERSION} is known; {_REMEDY}"
        )
    status = _get(tree, "status", source, "the table")
    if status != COMPLETED:
        raise UserError(
            f"{source}: status is {quoted(status)}, not {COMPLETED!r}; wait until the table is "
            "complete"
        )
    entries = _get_list(tree, "server_list", source, "the table")
    count = _number(_get(tree, "server_count", source, "the table"), "server_count", source)
    if count != len(entries):
        raise UserError(
            f"{source}: server_count is {count}, but server_list has {len(entries)}; {_REMEDY}"
        )
    servers = [_server(entry, number, source) for number, entry in enumerate(entries)]
    _refuse_repeats([server.server_id for server in servers], "server_id", source)
    _check_ranks(servers, source)
    servers.sort(key=lambda server: server.devices[0].rank_id)
    _check_shares(servers, source)
    return RankTable(tuple(servers))


def _server(entry: Any, number: int, source: str) -> Server:
    where = f"server {number}"
    server_id = _text(_get(entry, "server_id", source, where), "server_id", source)
    if not server_id:
        raise UserError(f"{source}: {where} has an empty server_id; write the server's address")
    nic = _text(entry.get("host_nic_ip", ""), "host_nic_ip", source)
    nic = "" if nic == _NO_HOST_NIC else nic
    for key, value in (("server_id", server_id), ("host_nic_ip", nic)):
        if value and not is_host(value):
            raise UserError(
                f"{source}: {key} {quoted(value)} of {where} is no address and no name of a host; "
                f"{_REMEDY}"
            )
    devices = [
        Device(
            _number(
                _get(item, "device_id", source, f"a device of {server_id}"), "device_id", source
            ),
            _device_ip(item.get("device_ip", ""), server_id, source),
            _number(_get(item, "rank_id", source, f"a device of {server_id}"), "rank_id", source),
        )
        for item in _get_list(entry, "device", source, f"server {server_id}")
    ]
    _refuse_repeats([device.device_id for device in devices], f"{server_id}: device_id", source)
    devices.sort(key=lambda device: device.rank_id)
    return Server(server_id, tuple(devices), nic)


def _device_ip(value: Any, server_id: str, source: str) -> str:
    text = _text(value, "device_ip", source)
    if text and not is_address(text):
        raise UserError(
            f"{source}: device_ip {quoted(text)} of {server_id} is no IP address; {_REMEDY}"
        )
    return text


def _check_ranks(servers: Sequence[Server], source: str) -> None:
    ranks = [device.rank_id for server in servers for device in server.devices]
    _refuse_repeats(ranks, "rank_id", source)
    missing = sorted(set(range(len(ranks))) - set(ranks))
    if missing:
        raise UserError(
            f"{source}: {len(ranks)} devices need ranks 0 to {len(ranks) - 1}, but rank "
            f"{missing[0]} is missing; {_REMEDY}"
        )


def _check_shares(servers: Sequence[Server], source: str) -> None:
    """``msrun`` computes ranks as node rank times local workers plus local number."""
    share = len(servers[0].devices)
    for number, server in enumerate(servers):
        if len(server.devices) != share:
            raise UserError(
                f"{source}: {servers[0].server_id} has {share} devices, {server.server_id} has "
                f"{len(server.devices)}; msrun needs equally many on every server: {_REMEDY}"
            )
        ranks = [device.rank_id for device in server.devices]
        if ranks != list(range(number * share, (number + 1) * share)):
            raise UserError(
                f"{source}: the ranks of {server.server_id} are {_shown(ranks)}; msrun needs "
                f"consecutive ranks on each server: {_REMEDY}"
            )
    if len(servers) > 1:
        for server in servers:
            for device in server.devices:
                if not device.device_ip:
                    raise UserError(
                        f"{source}: device {device.device_id} of {server.server_id} has no "
                        f"device_ip, which several servers need; {_REMEDY}"
                    )


def _shown(ranks: Sequence[int]) -> str:
    text = ", ".join(str(rank) for rank in ranks[:8])
    return text + (", ..." if len(ranks) > 8 else "")


def _get(tree: Any, key: str, source: str, where: str) -> Any:
    if not isinstance(tree, dict):
        raise UserError(f"{source}: {where} is not a JSON object; {_REMEDY}")
    if key not in tree:
        raise UserError(f"{source}: {where} has no {key!r}; {_REMEDY}")
    return tree[key]


def _get_list(tree: Any, key: str, source: str, where: str) -> list[Any]:
    value = _get(tree, key, source, where)
    if not isinstance(value, list) or not value:
        raise UserError(f"{source}: {key!r} of {where} is not a list of entries; {_REMEDY}")
    return value


def _text(value: Any, key: str, source: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{source}: {key} is {quoted(value)}; it must be text; {_REMEDY}")
    return value.strip()


def _number(value: Any, key: str, source: str) -> int:
    """Read a number of a server, a device or a rank, which may stand in quotes."""
    number = value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        number = int(value)
    if not isinstance(number, int) or isinstance(value, bool) or not 0 <= number <= MAX_DEVICE:
        raise UserError(
            f"{source}: {key} is {quoted(value)}; it must be a whole number from 0 to {MAX_DEVICE}"
        )
    return number


def _refuse_repeats(values: Iterable[Any], key: str, source: str) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise UserError(f"{source}: {key} {value} appears twice; {_REMEDY}")
        seen.add(value)


def merge_rank_tables(tables: Sequence[RankTable], source: str = "merge") -> RankTable:
    """Join the tables of several servers; ranks are numbered anew in the given order.

    Args:
        tables: The tables, in the order of their ranks in the result.
        source: Name for messages.

    Returns:
        The joint table.

    Raises:
        UserError: If a server appears twice or the servers differ in their number of devices.
    """
    servers = []
    rank = 0
    for server in (server for table in tables for server in table.servers):
        devices = tuple(
            Device(device.device_id, device.device_ip, rank + number)
            for number, device in enumerate(server.devices)
        )
        rank += len(devices)
        servers.append(Server(server.server_id, devices, server.host_nic_ip))
    return parse_rank_table(RankTable(tuple(servers)).to_dict(), source)


def find_server(table: RankTable, wanted: str | None, addresses: Iterable[str]) -> int:
    """Return which of the servers this one is.

    Args:
        table: The table.
        wanted: The environment variable ``SERVER_ID``: a server_id, or a number from 0 in the order
            of the ranks; None or "" where it is not set.
        addresses: This host's addresses and names.

    Returns:
        The number of the server in ``table.servers``: msrun's node rank.

    Raises:
        UserError: If no server, or more than one, fits.
    """
    names = [server.server_id for server in table.servers]
    if wanted:
        if wanted in names:
            return names.index(wanted)
        numbered = wanted.isascii() and wanted.isdigit() and len(wanted) < 10
        if numbered and int(wanted) < len(names):
            return int(wanted)
        raise UserError(
            f"SERVER_ID is {quoted(wanted)}; set it to a number from 0 to {len(names) - 1} or "
            f"to one of {_listed(names)}"
        )
    if len(names) == 1:
        # Inside a container the host's address is often not visible; there is no choice anyway.
        return 0
    known = set(addresses)
    found = [
        number
        for number, server in enumerate(table.servers)
        if server.server_id in known or server.host_nic_ip in known
    ]
    if len(found) != 1:
        how = "none" if not found else "more than one"
        raise UserError(
            f"{how} of the rank table's servers ({_listed(names)}) is this host; set SERVER_ID to "
            f"its number, 0 to {len(names) - 1}"
        )
    return found[0]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
