"""Which rank this process is, and means over the ranks."""

from __future__ import annotations

from typing import Any

from mindspore import Tensor, nn, ops
from mindspore.communication import GlobalComm, get_group_size, get_rank


def world() -> tuple[int, int]:
    """Return (rank, number of ranks); (0, 1) unless the processes have been joined."""
    if not GlobalComm.INITED:
        return 0, 1
    return int(get_rank()), int(get_group_size())


class Mean(nn.Cell):
    """The mean of tensors over the ranks; for one rank the tensors themselves."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.size = world()[1]
        self.reduce: Any = ops.AllReduce() if self.size > 1 else None

    def construct(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Each tensor's mean over the ranks."""
        if self.size == 1:
            return tensors
        means: tuple[Tensor, ...] = ()
        for tensor in tensors:
            means += (self.reduce(tensor) / self.size,)
        return means
