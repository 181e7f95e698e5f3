"""How the second moments of convolution patches are made of products of image rows: the numbers.

All of it runs in Python, where tuples and questions cost the compiler nothing: once for each layer
(:func:`row_plan`), or once for each shape of an input that a graph is compiled for. The latter are
functions of ``shape``, of the input with its padding to the left and right, and of ``key``, see
:func:`key_of`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from mindspore import Tensor, ops

from mindspore_thor.linalg.blocks import BlockLayout
from mindspore_thor.linalg.moments import gathers_rows
from mindspore_thor.linalg.patches import ConvGeometry

Shape = tuple[int, ...]


class RowPlan(NamedTuple):
    """Which input channels every block needs.

    Block b covers the patch entries from ``offsets[b]`` of its ``width`` channels on; ``channels``
    lists those of all blocks, of all groups. ``whole`` says that blocks and channels coincide,
    ``once`` that one matrix over all channels of a group is computed, and the blocks cut out of it.
    ``padding`` is (top, bottom, left, right).
    """

    width: int
    channels: tuple[int, ...]
    offsets: tuple[int, ...]
    whole: bool
    once: bool
    padding: tuple[int, int, int, int]


_GATHERING = 1.5
"""What blocks that share channels cost beside their products: the channels are copied first."""


def row_plan(geometry: ConvGeometry, layout: BlockLayout) -> RowPlan | None:
    """The plan for a layer, or None where patches are cheaper or the trick does not apply.

    Args:
        geometry: the convolution's constants.
        layout: split of the patch entries (channel, kh, kw) of one group.
    """
    kh, kw = geometry.kernel
    taps = kh * kw
    if kh == 1 or geometry.stride[0] != 1 or layout.size < taps:
        return None
    padding = geometry.padding
    if padding is None:
        if geometry.stride[1] != 1:  # the padding depends on the input's width
            return None
        across = [dilation * (k - 1) for k, dilation in zip(geometry.kernel, geometry.dilation)]
        (top, bottom), (left, right) = ((extra // 2, extra - extra // 2) for extra in across)
        padding = (top, bottom, left, right)
    count = layout.dim // taps
    starts = [block * layout.size // taps for block in range(layout.blocks)]
    ends = [
        -(-min((block + 1) * layout.size, layout.dim) // taps) for block in range(layout.blocks)
    ]
    width = max(end - start for start, end in zip(starts, ends))
    # Few blocks that end within channels, the last one short: the whole is less work than they are.
    aligned = layout.size % taps == 0
    once = not aligned and count**2 <= _GATHERING * layout.blocks * width**2
    if once and kh * (count * kw) ** 2 < layout.blocks * layout.size**2:
        return RowPlan(count, (), (0,), True, True, padding)
    if kh * (width * kw) ** 2 >= layout.size**2:
        return None
    offsets = tuple(block * layout.size - start * taps for block, start in enumerate(starts))
    channels = tuple(
        # Behind the last channel any will do: what it brings is masked away.
        group * count + min(start + k, count - 1)
        for group in range(geometry.groups)
        for start in starts
        for k in range(width)
    )
    whole = not any(offsets) and layout.padded == layout.dim and width * taps == layout.size
    return RowPlan(width, channels, offsets, whole, False, padding)


def key_of(geometry: ConvGeometry, layout: BlockLayout, plan: RowPlan) -> tuple[int, ...]:
    """The constants of a layer.

    Args:
        geometry: the convolution's.
        layout: split of the patch entries of one group.
        plan: from :func:`row_plan`.

    Returns:
        (matrices, rows of one, columns that all taps but the first reach over, their stride, kernel
        rows, their dilation, padding at the top, padding at top and bottom).
    """
    kh, kw = geometry.kernel
    top, bottom, _, _ = plan.padding
    batch = geometry.groups if plan.once else geometry.groups * layout.blocks
    reach = geometry.dilation[1] * (kw - 1)
    vertical = (kh, geometry.dilation[0], top, top + bottom)
    return (batch, plan.width * kw, reach, geometry.stride[1], *vertical)


@ops.constexpr
def side(shape: Shape, count: int) -> Shape:
    """The shape of so many columns of padding, [N, C, H, count]."""
    return (*shape[:3], count)


@ops.constexpr
def span(shape: Shape, key: Any) -> Shape:
    """The shape of what one tap sees where there is no stride, [N, C, H, W']."""
    return (*shape[:3], shape[3] - key[2])


@ops.constexpr
def ends(shape: Shape, key: Any, starts: Any) -> tuple[tuple[int, ...], ...]:
    """Where each strided tap ends, for its begin among ``starts``: exclusive, on all four axes."""
    return tuple((*shape[:3], start[3] + shape[3] - key[2]) for start in starts)


def _out_width(shape: Shape, key: Any) -> int:
    return -(-(shape[3] - key[2]) // key[3])


def _length(shape: Shape, key: Any) -> int:
    """Entries of a row of the columns: all image rows as wide as the output."""
    return shape[2] * _out_width(shape, key)


@ops.constexpr
def gathers(shape: Shape, key: Any) -> bool:
    """Whether all samples go into one product, see :func:`gathers_rows`."""
    return gathers_rows(_length(shape, key), key[1])


@ops.constexpr
def by_sample_shape(shape: Shape, key: Any) -> Shape:
    """The columns with a product for each sample, [N * matrices, rows of one, length]."""
    return (shape[0] * key[0], key[1], _length(shape, key))


@ops.constexpr
def over_batch_shape(shape: Shape, key: Any) -> Shape:
    """The columns before their samples are brought together, [N, matrices, rows of one, length]."""
    return (shape[0], key[0], key[1], _length(shape, key))


@ops.constexpr
def terms_of(shape: Shape, key: Any, samples: int) -> int:
    """Products that a sum is made of, over so many samples."""
    return samples * _length(shape, key)


def _row_pairs(height: int, key: Any) -> list[list[tuple[int, int, tuple[int, int, int], float]]]:
    """For kernel rows j >= i: (i, j, image rows (first, count, shift), sign) of what adds up."""
    kh, dilation, top, padding = key[4:]
    out_height = height + padding - dilation * (kh - 1)
    found = []
    for i in range(kh):
        for j in range(i, kh):
            shift = dilation * (j - i)
            rows = max(height - shift, 0)
            # Kernel row i sees image rows first .. last - 1; row j sees those shift further down.
            first = min(max(dilation * i - top, 0), rows)
            last = max(min(dilation * i - top + out_height, rows), first)
            terms = [(0, rows, 1.0), (0, first, -1.0), (last, rows - last, -1.0)]
            found.append([(i, j, (start, n, shift), sign) for start, n, sign in terms if n > 0])
    return found


def _ranges(height: int, key: Any) -> list[Any]:
    """Ranges of image rows whose products are needed, the complete one of lag 0 first."""
    pairs = _row_pairs(height, key)
    # Complete products are shared by all pairs of the same lag; so are equal border rows.
    found = list(dict.fromkeys(rows for terms in pairs for _, _, rows, _ in terms))
    # ops.Map wants something to do: what comes twice has no weight the second time.
    return found if len(found) > 1 else found * 2


@ops.constexpr
def row_slices(shape: Shape, key: Any, sliced: Shape, axis: int) -> Any:
    """Where the other ranges lie on an axis of the columns: begins, sizes, begins of the other row.

    Args:
        shape: see above.
        key: likewise.
        sliced: shape of the columns.
        axis: that on which image rows follow each other.
    """
    width = _out_width(shape, key)

    def at(number: int) -> Shape:
        return (*[0] * axis, number * width, *[0] * (len(sliced) - axis - 1))

    ranges = _ranges(shape[2], key)[1:]
    sizes = tuple((*sliced[:axis], n * width, *sliced[axis + 1 :]) for _, n, _ in ranges)
    others = tuple(at(first + shift) for first, _, shift in ranges)
    return tuple(at(first) for first, _, _ in ranges), sizes, others


@ops.constexpr
def row_weights(shape: Shape, key: Any) -> Tensor:
    """float32 [kh * kh, ranges]: the weights of the products in the sum's upper half.

    The lower half is its transpose; half of the diagonal counts, because it is added twice. They
    are powers of two, so that what is subtracted leaves no rounding errors of the weights behind.
    """
    kh = key[4]
    ranges = _ranges(shape[2], key)
    weights = np.zeros((kh * kh, len(ranges)), np.float32)
    for terms in _row_pairs(shape[2], key):
        for i, j, rows, sign in terms:
            weights[i * kh + j, ranges.index(rows)] += sign * (0.5 if i == j else 1.0)
    return Tensor(weights)


@ops.constexpr
def mean_share(shape: Shape, key: Any) -> float:
    """1 / (N T): what makes a mean over samples and positions of a sum."""
    kh, dilation, _, padding = key[4:]
    out_height = shape[2] + padding - dilation * (kh - 1)
    return 1.0 / (shape[0] * out_height * _out_width(shape, key))
