"""Gram matrices of per-sample gradients, K_nm = <u_n, u_m> with u_n = vec(sum_t g_nt a_nt^T).

They never need more than a stated amount of memory beside the layer's input and output gradient.
Everything about chunks is decided from shapes when the graph is compiled.
"""

from __future__ import annotations

from typing import Any

from mindspore import Tensor, nn, ops

from mindspore_thor.graph.operators import CAST, MUL, TRANSPOSE
from mindspore_thor.graph.slices import part_or_all
from mindspore_thor.layers.rows import Rows
from mindspore_thor.linalg.device import gram, narrow_type, product
from mindspore_thor.linalg.sums import SUM

_FLOAT = 4
_GRAM = ops.BatchMatMul(transpose_b=True)
_ACROSS = ops.MatMul(transpose_b=True)


def pairwise_is_cheaper(n: int, positions: int, d_in: int, d_out: int) -> bool:
    """Whether K from pairs of positions costs less than K from materialised gradients.

    Pairs: n^2 T^2 (d_in + d_out) multiplications. Gradients: n T d_in d_out to form them and
    n^2 d_in d_out for their products. At T = 1 the pairs are the identity K = (A A^T) o (G G^T).
    """
    return n * positions**2 * (d_in + d_out) <= d_in * d_out * (positions + n)


@ops.constexpr
def chunks(total: int, size: int) -> tuple[tuple[int, int], ...]:
    """Consecutive (start, stop) ranges of at most ``size`` (at least one) that cover ``total``."""
    size = max(1, min(size, total))
    return tuple((start, min(start + size, total)) for start in range(0, total, size))


# In Python, where tuples and questions cost the compiler nothing. ``shape`` is g's.

_PAIRS, _BY_SAMPLE, _BY_PART = range(3)


def _choice(shape: Any, d_in: int, memory: int) -> tuple[int, int]:
    """The form that is taken, and the bytes that its chunks may take."""
    n, groups, d_out, positions = shape
    if pairwise_is_cheaper(n, positions, d_in, d_out):
        # With several positions the columns are a copy, and so is their transpose.
        columns = 2 * n * groups * d_in * positions * _FLOAT if positions > 1 else 0
        if columns < memory:
            return _PAIRS, memory - columns
    whole = n * groups * d_out * d_in * _FLOAT
    return (_BY_SAMPLE, memory - whole) if 2 * whole <= memory else (_BY_PART, memory)


@ops.constexpr
def _takes(form: int, shape: tuple[int, ...], d_in: int, memory: int) -> bool:
    return _choice(shape, d_in, memory)[0] == form


@ops.constexpr
def _memory_left(shape: tuple[int, ...], d_in: int, memory: int) -> int:
    return _choice(shape, d_in, memory)[1]


def _samples_at_once(shape: Any, d_in: int, memory: int) -> tuple[int, int]:
    """How many samples fit: pairs with all, and per-sample gradients."""
    n, groups, _, positions = shape
    pairs = 3 * groups * positions * n * positions * _FLOAT
    return memory // pairs, memory // (groups * d_in * positions * _FLOAT)


@ops.constexpr
def _parts(form: int, shape: tuple[int, ...], d_in: int, memory: int) -> Any:
    return chunks(shape[0], _samples_at_once(shape, d_in, memory)[form])


@ops.constexpr
def _fits(form: int, shape: tuple[int, ...], d_in: int, memory: int) -> bool:
    return shape[0] <= max(1, _samples_at_once(shape, d_in, memory)[form])


@ops.constexpr
def _has_one_position(shape: tuple[int, ...]) -> bool:
    return shape[3] == 1


@ops.constexpr
def _rows_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """[N, groups, d, T] as [groups, N T, d]."""
    return (shape[1], shape[0] * shape[3], shape[2])


@ops.constexpr
def _pairs_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    n, groups, _, positions = shape
    return (groups, -1, positions, n, positions)


@ops.constexpr
def _maps_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0] * shape[1], shape[2], shape[3])


@ops.constexpr
def _flat_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], -1)


class SampleGram(nn.Cell):
    """K of one layer from its input and per-sample output gradients.

    The cheaper of two exact forms is taken: pairs of positions, or per-sample gradients
    [N, d_out * d_in] made from a part of the samples or of the input channels at a time.

    Args:
        rows: the layer's geometry, with samples as its first axis.
        memory: bytes that patches, per-sample gradients and products of one chunk may take. A
            chunk is never smaller than one sample, or one input channel (or group).
    """

    def __init__(self, rows: Rows, memory: int) -> None:
        super().__init__()
        self.rows = rows
        self.memory = memory

    def construct(self, x: Tensor, g: Tensor) -> Tensor:
        """K without the bias.

        Args:
            x: float32 input of the layer, its first axis being the N samples.
            g: [N, groups, d_out, T] per-sample output gradients.

        Returns:
            float32 [N, N], summed over the groups.
        """
        x = CAST(x, narrow_type(x.dtype))
        shape, d_in, memory = g.shape, self.rows.d_in, self.memory
        left = _memory_left(shape, d_in, memory)
        if _takes(_PAIRS, shape, d_in, memory):
            return self.from_pairs(self.rows.input_columns(x), g, left)
        if _takes(_BY_SAMPLE, shape, d_in, memory):
            return self.from_gradients_by_sample(x, g, left)
        return self.from_gradients_by_part(x, g)

    def from_pairs(self, a: Tensor, g: Tensor, memory: int) -> Tensor:
        """sum_{groups, t, t'} (a_nt . a_mt') (g_nt . g_mt'), some samples n at a time."""
        shape, d_in = g.shape, self.rows.d_in
        # [groups, N * T, d]: one product for all pairs.
        a = TRANSPOSE(a, (1, 0, 3, 2)).reshape(_rows_of(a.shape))
        g = TRANSPOSE(g, (1, 0, 3, 2)).reshape(_rows_of(shape))
        if _fits(_PAIRS, shape, d_in, memory):
            # No part of it needs a product of its own: next to nothing for the compiler.
            return self._summed(MUL(gram(_GRAM, a, d_in), gram(_GRAM, g, g.shape[2])), shape)
        found: tuple[Tensor, ...] = ()
        for start, stop in _parts(_PAIRS, shape, d_in, memory):
            if start > 0:
                # One chunk after the other: together they would take the memory that is bounded.
                a = ops.depend(a, found[-1])
            first, count = start * shape[3], (stop - start) * shape[3]
            a_n, g_n = part_or_all(a, first, count, 1), part_or_all(g, first, count, 1)
            products = product(_GRAM, a_n, a, d_in) * product(_GRAM, g_n, g, g.shape[2])
            found += (self._summed(products, shape),)
        return ops.concat(found, 0)

    def _summed(self, products: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Over groups and pairs of positions, [groups, n T, N T] -> [n, N]."""
        if _has_one_position(shape):
            return SUM(products, 0)
        # One axis at a time, the last first: three at once take several times as long.
        return SUM(SUM(SUM(products.reshape(_pairs_of(shape)), 4), 2), 0)

    def from_gradients_by_sample(self, x: Tensor, g: Tensor, memory: int) -> Tensor:
        """U U^T where U fits into the memory: only its patches are made in parts."""
        shape, d_in = g.shape, self.rows.d_in
        if _fits(_BY_SAMPLE, shape, d_in, memory):
            u = self._gradients(self.rows.input_columns(x), g)
        else:
            found: tuple[Tensor, ...] = ()
            for start, stop in _parts(_BY_SAMPLE, shape, d_in, memory):
                if start > 0:
                    x = ops.depend(x, found[-1])
                a = self.rows.input_columns(part_or_all(x, start, stop - start))
                found += (self._gradients(a, part_or_all(g, start, stop - start)),)
            u = ops.concat(found, 0)
        return gram(_ACROSS, u, u.shape[1])

    def _gradients(self, a: Tensor, g: Tensor) -> Tensor:
        """Per-sample gradients, flat: [n, groups * d_out * d_in]."""
        shape = g.shape
        u = product(_GRAM, g.reshape(_maps_of(shape)), a.reshape(_maps_of(a.shape)), shape[3])
        return u.reshape(_flat_of(shape))

    def from_gradients_by_part(self, x: Tensor, g: Tensor) -> Tensor:
        """Sum of U_c U_c^T over parts c of the input channels (or of the groups)."""
        n, groups, d_out, positions = g.shape
        units = self.rows.input_units()
        width = self.rows.d_in if groups > 1 else self.rows.d_in // units
        per_unit = n * width * (positions + d_out) * _FLOAT
        total = ()
        for start, stop in chunks(units, self.memory // per_unit):
            if start > 0:
                x = ops.depend(x, total)
            a = self.rows.part_of_columns(x, start, stop)
            g_c = g if groups == 1 else part_or_all(g, start, stop - start, 1)
            batch = n * a.shape[1]
            g_c, a = g_c.reshape((batch, d_out, positions)), a.reshape((batch, -1, positions))
            u = product(_GRAM, g_c, a, positions).reshape((n, -1))
            k = gram(_ACROSS, u, u.shape[1])
            total = k if start == 0 else total + k
        return total
