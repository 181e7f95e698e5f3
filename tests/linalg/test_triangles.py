"""Symmetric matrices as triangles: half the numbers, none lost."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor

from mindspore_thor.linalg.triangles import pack_triangles, unpack_triangles
from mindspore_thor.parallel.assignment import packed_length


@pytest.mark.parametrize("d", [1, 2, 3, 7, 8])
def test_there_and_back(d) -> None:
    x = np.random.default_rng(d).standard_normal((3, d, d)).astype(np.float32)
    x = x + x.transpose(0, 2, 1)
    packed = pack_triangles(Tensor(x))
    assert packed.size == 3 * packed_length(d)
    np.testing.assert_array_equal(unpack_triangles(packed, d).asnumpy(), x)


def test_a_nan_stays_with_its_matrix() -> None:
    x = np.ones((2, 4, 4), np.float32)
    x[0] = np.nan
    back = unpack_triangles(pack_triangles(Tensor(x)), 4).asnumpy()
    assert np.isnan(back[0]).any()
    np.testing.assert_array_equal(back[1], x[1])
