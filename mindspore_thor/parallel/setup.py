"""Making this process one rank of a job, where ``msrun`` started it as one."""

from __future__ import annotations

import os

import mindspore as ms
from mindspore.communication import GlobalComm, init

from mindspore_thor.parallel.communication import world
from mindspore_thor.parallel.orphan import follow_launcher

_ROLE = "MS_ROLE"


def serve_as_scheduler() -> bool:
    """Be the job's scheduler, if this process is meant to be it.

    msrun starts the script once more than there are ranks; that process only keeps the others
    together and must neither train nor write.

    Returns:
        Whether it was; then the job is over and there is nothing left to do.
    """
    if os.environ.get(_ROLE) != "MS_SCHED":
        return False
    ms.set_device("CPU")
    init()
    return True


def join_ranks() -> tuple[int, int]:
    """Join the other ranks, once, after the device has been chosen.

    Returns:
        (rank, number of ranks); (0, 1) in a process that msrun did not start.
    """
    if os.environ.get(_ROLE) == "MS_WORKER" and not GlobalComm.INITED:
        follow_launcher(os.environ)
        init()
        _, size = world()
        ms.set_auto_parallel_context(
            parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=True, device_num=size
        )
    return world()
