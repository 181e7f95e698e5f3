"""Small exchanges between the ranks outside of the training graphs.

Every function here must be called by all ranks at the same place. With one rank none of them
communicates.
"""

from __future__ import annotations

import binascii
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mindspore import Tensor, nn, ops

from mindspore_thor.errors import TrainingError
from mindspore_thor.parallel.communication import world


class _Sum(nn.Cell):
    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.reduce = ops.AllReduce()

    def construct(self, values: Tensor) -> Tensor:
        return self.reduce(values)


@functools.lru_cache(maxsize=1)
def _summing() -> _Sum:
    return _Sum()


def sum_over_ranks(values: np.ndarray) -> np.ndarray:
    """Return the sum over the ranks.

    Args:
        values: Of the same shape on every rank; summed as float32, so exact for whole numbers whose
            sum stays below 2**24.

    Returns:
        float32, of the same shape.
    """
    values = np.ascontiguousarray(values, np.float32)
    if world()[1] == 1:
        return values
    return _summing()(Tensor(values)).asnumpy()


def any_rank(flag: bool) -> bool:
    """Return whether the flag is set on any rank; also makes every rank wait for the others.

    Args:
        flag: This rank's flag.
    """
    if world()[1] == 1:
        return flag
    return bool(sum_over_ranks(np.array([float(flag)]))[0] > 0)


def check_equal(what: Mapping[str, Sequence[Any]]) -> None:
    """Raise unless all ranks have the same contents.

    Args:
        what: Name -> arrays and texts; 32 bits of each name's checksum are compared.

    Raises:
        TrainingError: On every rank, with the names that differ.
    """
    rank, size = world()
    if size == 1:
        return
    sums = [_checksum(parts) for parts in what.values()]
    # Halves of 16 bits, because float32 holds whole numbers exactly up to 2**24 only.
    halves = np.array([(value >> 16, value & 0xFFFF) for value in sums], np.float32)
    table = np.zeros((size, *halves.shape), np.float32)
    table[rank] = halves
    table = sum_over_ranks(table)
    for number, name in enumerate(what):
        others = [r for r in range(size) if not np.array_equal(table[r, number], table[0, number])]
        if others:
            raise TrainingError(
                f"rank {others[0]} starts with another {name} than rank 0; start every server with "
                "the same command, files and release"
            )


def _checksum(parts: Sequence[Any]) -> int:
    value = 0
    for part in parts:
        raw = part.encode() if isinstance(part, str) else np.ascontiguousarray(part).tobytes()
        value = binascii.crc32(raw, value)
    return value
