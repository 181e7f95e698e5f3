"""HCCL rank tables (JSON, version 1.0): reading, checking, writing and joining them.

MindSpore no longer starts from a rank table; ``msrun`` starts the processes. What it has to be told
stands in the table: how many ranks there are, how many of them here, and where the first one is.
Every check here is one that ``msrun`` or the devices would otherwise fail in much later.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindspore_thor.errors import UserError

VERSION = "1.0"
COMPLETED = "completed"
_NO_HOST_NIC = "reserve"
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
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(self.to_dict(), indent=4) + "\n", encoding="utf-8")
            os.replace(temporary, path)
        except OSError as error:
            raise UserError(
                f"{path}: cannot write the rank table ({error.strerror}); choose another folder"
            ) from None
        finally:
            # Where the folder is a file, this raises, too; the first error is the one to see.
            with contextlib.suppress(OSError):
                temporary.unlink()


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
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such rank table; give a JSON file or a number of devices"
        ) from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot read the rank table ({error.strerror}); give a readable JSON file"
        ) from None
    except ValueError as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(f"{path}{line}: not a JSON file; {_REMEDY}") from None
    return parse_rank_table(tree, str(path))


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
    if str(version) != VERSION:
        raise UserError(f"{source}: version is {version!r}, only {VERSION} is known; {_REMEDY}")
    status = _get(tree, "status", source, "the table")
    if status != COMPLETED:
        raise UserError(
            f"{source}: status is {status!r}, not {COMPLETED!r}; wait until the table is complete"
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
    server_id = str(_get(entry, "server_id", source, where)).strip()
    if not server_id:
        raise UserError(f"{source}: {where} has an empty server_id; write the server's address")
    devices = [
        Device(
            _number(
                _get(item, "device_id", source, f"a device of {server_id}"), "device_id", source
            ),
            str(item.get("device_ip", "")).strip(),
            _number(_get(item, "rank_id", source, f"a device of {server_id}"), "rank_id", source),
        )
        for item in _get_list(entry, "device", source, f"server {server_id}")
    ]
    _refuse_repeats([device.device_id for device in devices], f"{server_id}: device_id", source)
    nic = str(entry.get("host_nic_ip", "")).strip()
    devices.sort(key=lambda device: device.rank_id)
    return Server(server_id, tuple(devices), "" if nic == _NO_HOST_NIC else nic)


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


def _number(value: Any, key: str, source: str) -> int:
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UserError(f"{source}: {key} is {value!r}; it must be a whole number")
    return int(text)


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
        if wanted.isascii() and wanted.isdigit() and int(wanted) < len(names):
            return int(wanted)
        raise UserError(
            f"SERVER_ID is {wanted!r}; set it to a number from 0 to {len(names) - 1} or to one of "
            f"{_listed(names)}"
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
