"""Making this process one rank of a job, where ``msrun`` started it as one."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

import mindspore as ms
from mindspore.communication import GlobalComm, init

from mindspore_thor.errors import TrainingError, UserError, quoted
from mindspore_thor.launch.host import is_host, port_number
from mindspore_thor.launch.orphan import follow_launcher
from mindspore_thor.parallel.communication import world

_ROLE = "MS_ROLE"
_SCHEDULER, _WORKER = "MS_SCHED", "MS_WORKER"
_ALONE = f"unset {_ROLE} to train in this process alone, or start the job with msrun"
# Seconds that a scheduler may take to start where msrun does not say it (MS_TOPO_TIMEOUT).
_PATIENCE = 30
_TICK = 0.5


def serve_as_scheduler() -> bool:
    """Be the job's scheduler, if this process is meant to be it.

    msrun starts the script once more than there are ranks; that process only keeps the others
    together and must neither train nor write.

    Returns:
        Whether it was; then the job is over and there is nothing left to do.

    Raises:
        UserError: If the environment's variables of a job are left over from another one.
        TrainingError: If the ranks did not come.
    """
    check_role(os.environ)
    if os.environ.get(_ROLE) != _SCHEDULER:
        return False
    count = os.environ["MS_WORKER_NUM"]
    print(f"scheduler of a job of {count} processes ({_ROLE} is {_SCHEDULER})", flush=True)
    ms.set_device("CPU")
    _init()
    return True


def join_ranks() -> tuple[int, int]:
    """Join the other ranks, once, after the device has been chosen.

    Returns:
        (rank, number of ranks); (0, 1) in a process that msrun did not start.

    Raises:
        UserError: If no scheduler of a job answers.
        TrainingError: If MindSpore cannot join them.
    """
    if os.environ.get(_ROLE) == _WORKER and not GlobalComm.INITED:
        if not follow_launcher(os.environ):
            find_scheduler(os.environ)
        _init()
        _, size = world()
        ms.set_auto_parallel_context(
            parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=True, device_num=size
        )
    return world()


def _init() -> None:
    try:
        init()
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or ["no reason given"]
        raise TrainingError(f"MindSpore could not join the job's processes: {lines[0]}") from error


def check_role(environment: Mapping[str, str]) -> None:
    """Refuse what MindSpore could not start as a process of a job.

    Args:
        environment: The environment variables.

    Raises:
        UserError: If ``MS_ROLE`` is set, but not to a role, or without what belongs to it.
    """
    role = environment.get(_ROLE)
    if not role:
        return
    if role not in (_SCHEDULER, _WORKER):
        raise UserError(f"{_ROLE} is {quoted(role)}, which is no role in a job; {_ALONE}")
    for name, good, what in (
        ("MS_WORKER_NUM", _is_count, "a number of processes"),
        ("MS_SCHED_HOST", is_host, "the scheduler's address"),
        ("MS_SCHED_PORT", lambda text: port_number(text) is not None, "the scheduler's port"),
    ):
        value = environment.get(name, "")
        if not good(value):
            state = f"is {quoted(value)}, which is not" if value else "does not say"
            raise UserError(f"{_ROLE} is {role}, but {name} {state} {what}; {_ALONE}")


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 7 and int(text) > 0


def find_scheduler(environment: Mapping[str, str]) -> None:
    """Wait until the job's scheduler answers; MindSpore would try for half an hour.

    Args:
        environment: The environment variables, checked by :func:`check_role`.

    Raises:
        UserError: If it does not answer in time.
    """
    host, port = environment["MS_SCHED_HOST"], int(environment["MS_SCHED_PORT"])
    text = environment.get("MS_TOPO_TIMEOUT", "")
    patience = int(text) if _is_count(text) else _PATIENCE
    began = time.monotonic()
    said = False
    while True:
        try:
            socket.create_connection((host, port), timeout=5.0).close()
            return
        except OSError as error:
            waited = time.monotonic() - began
            if waited > patience:
                raise UserError(
                    f"{_ROLE} is {_WORKER}, but no scheduler answers at {host}:{port} "
                    f"({error.strerror or error}); {_ALONE}"
                ) from None
            if waited > _PATIENCE / 3 and not said:
                said = True
                print(
                    f"waiting for the scheduler at {host}:{port} ({_ROLE} is {_WORKER})", flush=True
                )
            time.sleep(_TICK)
