"""Sums that a rule makes of padded tokens, and the means that a group makes of them.

Without a compiled graph: rule and group are called as they are. The expected numbers are of lists
of sentences, which know no padding.
"""

from __future__ import annotations

from collections.abc import Iterator

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindspore_thor.layers.types.dense import DenseRows
from mindspore_thor.linalg.blocks import block_layout
from mindspore_thor.methods.eva import MeanRule, RankOne
from mindspore_thor.methods.kronecker import KroneckerCurvature, KroneckerRule

D_IN, D_OUT = 3, 2
USES = [([4, 1, 2], 6), ([2, 3, 3], 3)]
"""Of one layer in one pass: the lengths of the sentences, and what they are padded to.

Or of two ranks, or micro-batches.
"""


@pytest.fixture(autouse=True)
def _pynative() -> Iterator[None]:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


def sentences(lengths: list[int], seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Inputs a~ = [a; 1] and output gradients of each sentence's tokens."""
    rng = np.random.default_rng(seed)
    a = [np.hstack([rng.standard_normal((n, D_IN)), np.ones((n, 1))]) for n in lengths]
    return a, [rng.standard_normal((n, D_OUT)) for n in lengths]


def measured(rule, curvature, share: float = 1.0) -> np.ndarray:
    """The statistics of all uses of one pass, as the group stores them.

    With a ``share`` of 1/2 those of two ranks or micro-batches, whose mean reaches the group.
    """
    total = 0.0
    for seed, (lengths, length) in enumerate(USES):
        a, dout = sentences(lengths, seed)
        x = np.full((len(lengths), length, D_IN), 7.0)  # what padding holds must not matter
        ds = np.zeros((len(lengths), length, D_OUT))
        for n, (rows, gradients) in enumerate(zip(a, dout)):
            x[n, : len(rows)] = rows[:, :-1]
            ds[n, : len(rows)] = gradients
        inputs = (Tensor(v.astype(np.float32)) for v in (x, ds, ds))
        total = total + rule(*inputs, Tensor(0.0)).asnumpy()
    fresh = Tensor(np.asarray(share * total, np.float32).reshape((1, -1)))
    assert bool(curvature.entering(fresh).asnumpy().all())
    return curvature.averaged(fresh).asnumpy()[0].astype(np.float64)


def rows_of_all_uses(mode: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Rows of a~ and of g, pooled over both uses, and T of one use: docs/methods.md, section 0."""
    pairs = [sentences(lengths, seed) for seed, (lengths, _) in enumerate(USES)]
    n = len(USES[0][0])
    # M of a use: their mean over the uses.
    real = sum(sum(lengths) for lengths, _ in USES) / len(USES)
    each_a = [rows for a, _ in pairs for rows in a]
    each_g = [rows for _, g in pairs for rows in g]
    if mode == "reduce":
        a, g = np.stack([r.mean(0) for r in each_a]), np.stack([r.mean(0) for r in each_g])
        return a, real * g, 1.0
    a, g = np.concatenate(each_a), np.concatenate(each_g)
    return (a, real * g, 1.0) if mode == "expand" else (a, n * g, real / n)


@pytest.mark.parametrize("share", [1.0, 0.5], ids=["uses", "ranks"])
@pytest.mark.parametrize("mode", ["expand", "reduce", "share"])
def test_factors_of_two_uses_or_ranks(mode, share) -> None:
    rows = DenseRows(D_IN, D_OUT, mode)
    left, right = block_layout(D_OUT, None), block_layout(D_IN + 1, None)
    curvature = KroneckerCurvature("k", 1, rows, True, None, 0.0)
    found = measured(KroneckerRule(rows, True, left, right), curvature, share)
    a, g, positions = rows_of_all_uses(mode)
    end_a, end = (D_IN + 1) ** 2, (D_IN + 1) ** 2 + D_OUT**2
    np.testing.assert_allclose(found[:end_a], (a.T @ a / len(a)).ravel(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[end_a:end], (g.T @ g / len(g)).ravel(), rtol=1e-5, atol=1e-5)
    # The positions of all uses count, and the mean over ranks.
    assert found[end + 1] == pytest.approx(len(USES) * share * positions, rel=1e-6)


@pytest.mark.parametrize("mode", ["expand", "reduce", "share"])
def test_means_of_two_uses(mode) -> None:
    rows = DenseRows(D_IN, D_OUT, mode)
    found = measured(MeanRule(rows, True), RankOne("e", 1, rows, True, 0.0))
    a, g, _ = rows_of_all_uses(mode)
    np.testing.assert_allclose(found[: D_IN + 1], a.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[D_IN + 1 :][:D_OUT], g.mean(0), rtol=1e-5, atol=1e-5)


def test_rows_without_a_token_axis_keep_their_bits() -> None:
    """What the group divides by is exactly the number of uses."""
    rows = DenseRows(D_IN, D_OUT)
    curvature = KroneckerCurvature("k", 1, rows, False, None, 0.0)
    rule = KroneckerRule(rows, False, block_layout(D_OUT, None), block_layout(D_IN, None))
    rng = np.random.default_rng(0)
    x, ds = (Tensor(rng.standard_normal((5, d)).astype(np.float32)) for d in (D_IN, D_OUT))
    fresh = rule(x, ds, ds, Tensor(0.0))
    found = curvature.averaged((fresh + fresh + fresh).reshape((1, -1))).asnumpy()[0]
    np.testing.assert_array_equal(found[: curvature.end], (3 * fresh.asnumpy() / 3)[:-3])
