#!/usr/bin/env python3
"""Make an HCCL rank table for this server, or merge the tables of several servers.

    python scripts/hccl_tools.py --device_num "[0,8)"
    python scripts/hccl_tools.py --device_num "[0,4)" --visible_devices "4,5,6,7"
    python scripts/hccl_tools.py --merge hccl_2p_01_10.0.0.1.json hccl_2p_01_10.0.0.2.json

The files are named as in the model zoo: hccl_{devices}p_{numbers}_{server_ip}.json, and
hccl_{servers}s_{devices}p.json for a merged one, whose ranks follow the order of the arguments.
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindspore_thor.command_line import Parser, one_line_errors
from mindspore_thor.errors import UserError, quoted
from mindspore_thor.launch import hccn
from mindspore_thor.launch.host import is_host
from mindspore_thor.launch.rank_table import (
    Device,
    RankTable,
    Server,
    merge_rank_tables,
    read_rank_table,
)
from mindspore_thor.program import run_program


def _parser() -> Parser:
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--device_num",
        default="[0,8)",
        help='range of logical device numbers, end excluded ["[0,8)"]',
    )
    parser.add_argument(
        "--visible_devices",
        help="physical numbers of the logical devices 0, 1, ... [the same numbers]",
    )
    parser.add_argument("--server_ip", help="this server's address [what its name resolves to]")
    parser.add_argument("--output_dir", type=Path, default=Path(), help="folder of the file [.]")
    parser.add_argument("--merge", type=Path, nargs="+", metavar="TABLE", help="tables to merge")
    return parser


def make_table(
    logical: Sequence[int], visible: Sequence[int] | None, server: str, addresses: hccn.Ask
) -> RankTable:
    if visible is not None and logical[-1] >= len(visible):
        raise UserError(
            f"--device_num reaches device {logical[-1]}, but --visible_devices has "
            f"{len(visible)}; the range counts the visible ones from 0"
        )
    physical = list(logical) if visible is None else [visible[number] for number in logical]
    found = hccn.device_addresses(physical, addresses, hccn.CONFIGURATION)
    devices = (Device(*row, rank) for rank, row in enumerate(zip(physical, found)))
    return RankTable((Server(server, tuple(devices)),))


def host_ip() -> str:
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        address = "127."
    if address.startswith("127."):
        raise UserError("this server's address is unknown; give it with --server_ip")
    return address


def run(argv: Sequence[str] | None = None) -> Path:
    options = _parser().parse_args(argv)
    if options.merge:
        tables = [read_rank_table(path) for path in options.merge]
        table = merge_rank_tables(tables, "the merged table")
        name = f"hccl_{len(table.servers)}s_{table.size}p.json"
    else:
        logical = hccn.parse_range(options.device_num)
        visible = (
            None if options.visible_devices is None else hccn.parse_devices(options.visible_devices)
        )
        server = options.server_ip or host_ip()
        if not is_host(server):
            raise UserError(f"--server_ip is {quoted(server)}; give an address or a host's name")
        table = make_table(logical, visible, server, hccn.ask_tool)
        numbers = "".join(str(number) for number in logical)
        name = f"hccl_{len(logical)}p_{numbers}_{server}.json"
    path = options.output_dir / name
    table.write(path)
    return path


@one_line_errors
def main() -> int:
    print(f"rank table: {run()}")
    return 0


if __name__ == "__main__":
    run_program(main)
