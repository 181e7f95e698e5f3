"""Slices of arrays, in the one form that MindSpore's CPU kernels copy fast.

Indexing compiles to ``StridedSlice``. That copies at the memory's speed where exactly one axis is
cut; where none or several are, it visits every element by its coordinates, 30 to 60 times slower
(MindSpore 2.10, CPU). So: one axis at a time, and nothing at all where the whole axis is wanted.
Besides, indexing goes through layers of Python that the compiler parses at every use.
"""

from __future__ import annotations

from mindspore import Tensor, ops

_SLICE = ops.Slice()
_STRIDED = ops.StridedSlice()


@ops.constexpr
def _window(
    shape: tuple[int, ...], start: int, count: int, axis: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Begin and size of a slice: in Python, where tuples cost the compiler nothing."""
    begin = tuple(start if i == axis else 0 for i in range(len(shape)))
    return begin, (*shape[:axis], count, *shape[axis + 1 :])


def part(x: Tensor, start: int, count: int, axis: int = 0) -> Tensor:
    """Consecutive entries of one axis.

    Args:
        x: any shape and type.
        start: first entry, from 0.
        count: how many, at most as many as there are from ``start`` on (not checked here).
        axis: from 0; negative numbers do not count from the end.

    Returns:
        ``x`` with ``count`` entries on that axis; ``x`` itself where that is all of it.
    """
    if count == x.shape[axis]:
        return x
    begin, size = _window(x.shape, start, count, axis)
    return _SLICE(x, begin, size)


def every(x: Tensor, stride: int, axis: int) -> Tensor:
    """Entries 0, stride, 2 stride, ... of one axis.

    Args:
        x: any shape and type.
        stride: at least 1.
        axis: from 0; negative numbers do not count from the end.

    Returns:
        ``x`` with ceil(length / stride) entries on that axis; ``x`` itself for a stride of 1.
    """
    shape = x.shape
    if stride == 1:
        return x
    ones = (1,) * len(shape)
    steps = (*ones[:axis], stride, *ones[axis + 1 :])
    return _STRIDED(x, (0,) * len(shape), shape, steps)
