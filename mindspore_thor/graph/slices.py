"""Slices of arrays, in the one form that MindSpore's CPU kernels copy fast.

Indexing compiles to ``StridedSlice``. That copies at the memory's speed where exactly one axis is
cut; where none or several are, it visits every element by its coordinates, 30 to 60 times slower
(MindSpore 2.10, CPU). So: one axis at a time, by ``Slice``.
Besides, indexing goes through layers of Python that the compiler parses at every use.
"""

from __future__ import annotations

from mindspore import Tensor, ops

SLICE = ops.Slice()
"""(x, where each axis begins, how many of each): for places that are known when an object is made,
where :func:`part` is one more function to the compiler."""
_STRIDED = ops.StridedSlice()


# In Python, where tuples cost the compiler nothing.


@ops.constexpr
def _is_all(shape: tuple[int, ...], count: int, axis: int) -> bool:
    return shape[axis] == count


@ops.constexpr
def _begin(shape: tuple[int, ...], start: int, axis: int) -> tuple[int, ...]:
    return tuple(start if i == axis else 0 for i in range(len(shape)))


@ops.constexpr
def _size(shape: tuple[int, ...], count: int, axis: int) -> tuple[int, ...]:
    return (*shape[:axis], count, *shape[axis + 1 :])


@ops.constexpr
def column_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which a vector multiplies, or chooses, along the first axis: (-1, 1, ...)."""
    return (-1,) + (1,) * (len(shape) - 1)


def part(x: Tensor, start: int, count: int, axis: int = 0) -> Tensor:
    """Consecutive entries of one axis.

    Args:
        x: any shape and type.
        start: first entry, from 0.
        count: how many, at most as many as there are from ``start`` on (not checked here).
        axis: from 0; negative numbers do not count from the end.

    Returns:
        ``x`` with ``count`` entries on that axis.
    """
    shape = x.shape
    return SLICE(x, _begin(shape, start, axis), _size(shape, count, axis))


def part_or_all(x: Tensor, start: int, count: int, axis: int = 0) -> Tensor:
    """:func:`part` where it may be all of a large array: then it is that array, not a copy.

    Arguments as there. Not everywhere: a question costs the compiler more than the slice, even one
    that it can answer.
    """
    return x if _is_all(x.shape, count, axis) else part(x, start, count, axis)


def all_of(x: Tensor, start: int, count: int) -> Tensor:
    """What stands in the place of :func:`part` where that would be all: ``x``, not a copy."""
    return x


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
