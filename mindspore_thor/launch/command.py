"""Starting one process per device: ``python -m mindspore_thor.launch.command 2 train.py ...``.

The processes are started by MindSpore's ``msrun``. What it must be told comes from a rank table or
is worked out for this machine; the waiting is done here (see ``job.py`` for why).
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from mindspore_thor.command_line import Parser, one_line_errors, whole_number
from mindspore_thor.errors import UserError, quoted
from mindspore_thor.launch.host import (
    check_port,
    check_reachable,
    free_port,
    host_addresses,
    is_host,
    most_processes,
    port_number,
    visible_devices,
)
from mindspore_thor.launch.job import Job
from mindspore_thor.launch.rank_table import RankTable, find_server, read_rank_table
from mindspore_thor.program import run_program

LOCALHOST = "127.0.0.1"
# msrun's own default; the servers of one job cannot agree on a free port beforehand.
SHARED_PORT = 8118
DEFAULT_LOGS = Path("runs") / "logs"
_VISIBLE_OF = {"Ascend": "ASCEND_RT_VISIBLE_DEVICES", "GPU": "CUDA_VISIBLE_DEVICES"}
# `python -m` would look for every module in the current folder first.
_MSRUN = (
    "import sys; sys.path[:] = [entry for entry in sys.path if entry]; "
    "from mindspore.parallel.cluster.run import main; main()"
)
_TARGET_FLAG = "--train.device_target"


@dataclass(frozen=True)
class Plan:
    """What ``msrun`` has to be told on this server.

    Attributes:
        worker_num: Ranks of the whole job.
        local_worker_num: Ranks on this server.
        node_rank: Number of this server.
        master_addr: Address of the server that has rank 0.
        master_port: Port of the scheduler there.
        environment: Variables to set for the processes.
    """

    worker_num: int
    local_worker_num: int
    node_rank: int
    master_addr: str
    master_port: int
    environment: Mapping[str, str]

    @property
    def first_rank(self) -> int:
        """The first rank on this server."""
        return self.node_rank * self.local_worker_num


def plan_for_number(count: int, target: str, environment: Mapping[str, str]) -> Plan:
    """Plan a job of ``count`` processes on this machine alone.

    Args:
        count: Number of processes.
        target: Device target: CPU, GPU or Ascend.
        environment: The environment variables.

    Returns:
        The plan; device number i of the visible ones goes to rank i.

    Raises:
        UserError: If fewer devices are visible, or MASTER_PORT is no port.
    """
    if count < 1:
        raise UserError(f"DEVICE_NUM is {count}; give a whole number of at least 1")
    _check_count(count, f"DEVICE_NUM is {count}")
    name = _VISIBLE_OF.get(target)
    seen = visible_devices(environment, name) if name else None
    if name and seen is not None and len(seen) < count:
        raise UserError(
            f"{name} shows {len(seen)} devices, {count} are asked for; ask for fewer or show more"
        )
    return Plan(count, count, 0, LOCALHOST, master_port(environment) or free_port(), {})


def plan_for_table(
    table: RankTable, environment: Mapping[str, str], addresses: Iterable[str]
) -> Plan:
    """Plan this server's part of a job that a rank table describes.

    Args:
        table: The table.
        environment: The environment variables; SERVER_ID, MASTER_ADDR and MASTER_PORT count.
        addresses: This host's addresses and names.

    Returns:
        The plan; the devices are shown to the processes in the order of their ranks, because msrun
        numbers the devices of a server from 0.

    Raises:
        UserError: If this server is not in the table, or its devices are hidden.
    """
    node = find_server(table, environment.get("SERVER_ID"), addresses)
    devices = [str(device.device_id) for device in table.servers[node].devices]
    name = _VISIBLE_OF["Ascend"]
    seen = visible_devices(environment, name)
    hidden = [device for device in devices if seen is not None and device not in seen]
    if hidden:
        raise UserError(
            f"{name} hides device {hidden[0]}, which the rank table uses; unset it or change it"
        )
    _check_count(len(devices), f"the rank table has {len(devices)} devices of this server")
    alone = len(table.servers) == 1
    port = master_port(environment)
    master = environment.get("MASTER_ADDR", "").strip()
    if master and not is_host(master):
        raise UserError(
            f"MASTER_ADDR is {quoted(master)}; give the address of the server with rank 0, or "
            "unset it"
        )
    return Plan(
        worker_num=table.size,
        local_worker_num=len(devices),
        node_rank=node,
        master_addr=LOCALHOST if alone else master or table.servers[0].address,
        master_port=port or (free_port() if alone else SHARED_PORT),
        environment={name: ",".join(devices)},
    )


def master_port(environment: Mapping[str, str]) -> int | None:
    """Return the port in MASTER_PORT, or None where it is not set.

    Args:
        environment: The environment variables.

    Raises:
        UserError: If it is no port.
    """
    text = environment.get("MASTER_PORT", "").strip()
    if not text:
        return None
    port = port_number(text)
    if port is None:
        raise UserError(
            f"MASTER_PORT is {quoted(text)}; give a port from 1024 to 65535 or unset it"
        )
    return port


def _check_count(count: int, what: str) -> None:
    """Refuse more processes than this machine can start."""
    most = most_processes()
    if count > most:
        raise UserError(f"{what}, but this machine takes at most {most} processes; use fewer")


def msrun_command(
    plan: Plan, log_dir: Path, timeout: int, script: str, arguments: Sequence[str]
) -> list[str]:
    """Return the command line of msrun.

    Args:
        plan: The plan for this server.
        log_dir: Folder of the logs.
        timeout: Seconds that the ranks wait for each other at the start.
        script: The Python script that every rank runs.
        arguments: Its arguments.
    """
    return [
        *(sys.executable, "-c", _MSRUN),
        f"--worker_num={plan.worker_num}",
        f"--local_worker_num={plan.local_worker_num}",
        f"--node_rank={plan.node_rank}",
        f"--master_addr={plan.master_addr}",
        f"--master_port={plan.master_port}",
        f"--log_dir={log_dir}",
        f"--cluster_time_out={timeout}",
        "--join=False",
        script,
        *arguments,
    ]


def _parser() -> Parser:
    parser = Parser(
        prog="python -m mindspore_thor.launch.command",
        description="Run a script in one process per device, wait, and end all when one fails.",
    )
    parser.add_argument(
        "--log_dir", type=Path, help="folder of the logs [a fresh one in runs/logs]"
    )
    parser.add_argument(
        "--cluster_time_out",
        type=whole_number,
        default=600,
        help="seconds that the ranks wait for each other at the start [600]",
    )
    parser.add_argument("--dry_run", action="store_true", help="print msrun's command line only")
    parser.add_argument("devices", metavar="RANK_TABLE_FILE|DEVICE_NUM")
    parser.add_argument("script", help="the Python script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the script's arguments")
    return parser


def make_plan(devices: str, target: str, environment: Mapping[str, str]) -> Plan:
    """Plan a job from the first argument of the command line.

    Args:
        devices: A rank table's path, or a number of processes.
        target: Device target: CPU, GPU or Ascend.
        environment: The environment variables.

    Raises:
        UserError: If it is neither, or does not fit this machine.
    """
    if devices.lstrip("-").isdigit() and devices.isascii():
        if len(devices) > 9:
            raise UserError(f"DEVICE_NUM is {quoted(devices)}; give a number of processes")
        return plan_for_number(int(devices), target, environment)
    return plan_for_table(read_rank_table(Path(devices)), environment, host_addresses())


def device_target(arguments: Sequence[str]) -> str:
    """Return the device target: the one that the script is given, else MindSpore's default.

    Args:
        arguments: The script's arguments.
    """
    for number, word in enumerate(arguments):
        flag, has_value, value = word.partition("=")
        if flag == _TARGET_FLAG:
            return value if has_value else "".join(arguments[number + 1 : number + 2])
    import mindspore as ms

    return str(ms.get_context("device_target"))


def _fresh_logs(requested: Path | None) -> Path:
    if requested is None:
        return DEFAULT_LOGS / f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"
    if requested.exists() and not requested.is_dir():
        raise UserError(f"{requested}: not a folder; give another --log_dir")
    if any(requested.glob("worker_*.log")):
        raise UserError(f"{requested}: holds the logs of another job; give another --log_dir")
    return requested


def _run(argv: Sequence[str] | None) -> int:
    options = _parser().parse_args(argv)
    if not Path(options.script).is_file():
        raise UserError(f"{options.script}: no such script; give the path of one, e.g. train.py")
    plan = make_plan(options.devices, device_target(options.arguments), os.environ)
    log_dir = _fresh_logs(options.log_dir)
    command = msrun_command(
        plan, log_dir, options.cluster_time_out, options.script, options.arguments
    )
    if options.dry_run:
        print(shlex.join([*(f"{k}={v}" for k, v in plan.environment.items()), *command]))
        return 0
    if plan.node_rank == 0:
        check_port(plan.master_port)
    check_reachable(plan.master_addr)
    ranks = range(plan.first_rank, plan.first_rank + plan.local_worker_num)
    return Job(command, plan.environment, ranks, log_dir).run()


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    Args:
        argv: Arguments without the program's name; None for the process's own.

    Returns:
        0 when every rank ended well, 2 for wrong input, else the code of the rank that failed first
        (128 + n where signal n ended it).
    """
    return _run(argv)


def program() -> NoReturn:
    """Run as a program of its own."""
    # Until the job listens: an exception in the middle of importing MindSpore would abort.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    run_program(main, result_is_printed=False)


if __name__ == "__main__":
    program()
