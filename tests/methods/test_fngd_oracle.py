"""FNGD's coefficients and updates against the explicit Fisher matrix, in float64."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import steps
from mindspore import Tensor, nn
from oracle.bridge import oracle_net
from oracle.natural import Fngd, covered, per_sample, positions
from oracle.nets import ODD, conv_net, mlp, small_conv_net, token_net

from mindspore_thor import FNGD, DynamicLossScale
from mindspore_thor.layers.types.conv2d import ConvRows
from mindspore_thor.layers.types.dense import DenseRows
from mindspore_thor.linalg.patches import ConvGeometry
from mindspore_thor.methods.fngd_gram import SampleGram, chunks, pairwise_is_cheaper
from mindspore_thor.methods.fngd_weights import sample_weights

TOLERANCE = 2e-5
N = 8


def run(problem, data=None, gram_memory=256, **options):
    return steps.run(partial(FNGD, gram_memory=gram_memory), Fngd, problem, data, **options)


def assert_close(errors: dict[str, float], tolerance: float = TOLERANCE) -> None:
    steps.assert_close(errors, tolerance)


# -- whole steps --------------------


@pytest.mark.parametrize(
    ("problem", "memory"),
    [(conv_net, 256), (small_conv_net, 1e-5)],
    ids=["every kind, in one piece", "smallest chunks"],
)
def test_one_step_on_convolutions(problem, memory) -> None:
    """F1 and F3: the weighted gradient is lam (F + lam I)^-1 gbar with the explicit F.

    BatchNorm keeps the plain gradient.
    """
    errors, _, step = run(problem(), steps_per_epoch=3, gram_memory=memory)
    assert_close(errors)
    rows = step.optimizer.layer_report()
    assert {row.type: row.covered for row in rows} == {
        "Conv2d": True,
        "BatchNorm2d": False,
        "Dense": True,
    }
    assert all(row.accepted == 1 for row in rows if row.covered)


def test_one_step_on_tokens_without_absorbing_the_scale() -> None:
    """Tokens are positions of one sample; the update is (F + lam I)^-1 gbar itself (F8)."""
    problem = token_net()
    errors, _, _ = run(problem, steps_per_epoch=2, alpha=0.1, absorb_scale=False)
    assert_close(errors)


@pytest.mark.parametrize("share", ["slot", "last", "mean", "none"])
def test_three_epochs(share) -> None:
    """F7: later epochs reuse what the first one stored, on other samples; "none" always solves.

    The loss scale cancels.
    """
    errors, oracle, step = run(
        mlp(batch=N, sizes=ODD),
        8,
        lr=[0.5 * 0.9**k for k in range(8)],
        momentum=0.8,
        weight_decay=0.02,
        share=share,
        steps_per_epoch=3,
        alpha=0.02,
        loss_scale=DynamicLossScale(512.0, window=3) if share == "mean" else 512.0,
    )
    assert_close(errors, 1e-4)
    solved = 8 if share == "none" else 3
    assert [row.accepted for row in step.optimizer.layer_report()] == [solved, solved]
    if share == "slot":
        for i, curvature in enumerate(step.optimizer.curvatures):
            expected = np.stack([N * oracle.store[i, slot] for slot in range(3)])
            np.testing.assert_allclose(curvature.store.asnumpy(), expected, rtol=2e-4)


# -- the Gram matrix --------------------


class Gram(nn.Cell):
    def __init__(self, rows: nn.Cell, memory: int, form: str) -> None:
        super().__init__()
        self.gram = SampleGram(rows, memory)
        self.rows = rows
        self.form = form

    def construct(self, x, g):
        if self.form == "pairs":
            return self.gram.from_pairs(self.rows.input_columns(x), g, self.gram.memory)
        if self.form == "samples":
            return self.gram.from_gradients_by_sample(x, g, self.gram.memory)
        if self.form == "parts":
            return self.gram.from_gradients_by_part(x, g)
        return self.gram(x, g)


GEOMETRIES = {
    "dense": (DenseRows(5, 4, "share"), (6, 5), (6, 1, 4, 1)),
    "tokens": (DenseRows(5, 4, "share"), (6, 3, 5), (6, 1, 4, 3)),
    "asymmetric": (
        ConvRows(None, ConvGeometry((3, 2), (2, 1), (1, 0, 2, 1), (1, 1), 1), (4, 3, 3, 2)),
        (6, 3, 5, 4),
        (6, 1, 4, 12),
    ),
    "groups": (
        ConvRows(None, ConvGeometry((2, 2), (1, 1), (0,) * 4, (2, 1), 3), (6, 2, 2, 2)),
        (6, 6, 4, 3),
        (6, 3, 2, 4),
    ),
}


@pytest.mark.parametrize("memory", [10**9, 200], ids=["whole", "chunks"])
@pytest.mark.parametrize("form", ["pairs", "samples", "parts", "chosen"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_gram_matrix_in_every_form(name, form, memory) -> None:
    """F2: K_nm = <u_n, u_m>, with u_n = vec(sum_t g_nt a_nt^T) made one by one in float64."""
    rows, x_shape, g_shape = GEOMETRIES[name]
    rng = np.random.default_rng(4)
    x = rng.standard_normal(x_shape).astype(np.float32)
    g = rng.standard_normal(g_shape).astype(np.float32)
    a = rows.input_columns(Tensor(x)).asnumpy().astype(np.float64)
    u = np.einsum("ngot,ngit->ngoi", g.astype(np.float64), a).reshape(len(x), -1)
    k = Gram(rows, memory, form)(Tensor(x), Tensor(g)).asnumpy()
    np.testing.assert_allclose(k, u @ u.T, atol=1e-5 * np.abs(u @ u.T).max())


def test_which_form_is_cheaper() -> None:
    """Without positions always the Hadamard identity; long sequences of small layers never."""
    assert pairwise_is_cheaper(128, 1, 512, 10)
    assert pairwise_is_cheaper(8, 1, 5, 7)
    assert not pairwise_is_cheaper(128, 1024, 27, 16)
    assert pairwise_is_cheaper(128, 4, 4608, 512)  # 16 * 5120 < 512 * 4608


@pytest.mark.parametrize(("total", "size"), [(7, 3), (7, 0), (4, 9), (1, 1)])
def test_chunks_cover_everything_once(total, size) -> None:
    found = chunks(total, size)
    assert [i for start, stop in found for i in range(start, stop)] == list(range(total))
    assert all(0 < stop - start <= max(size, 1) for start, stop in found)


# -- the coefficients --------------------


def weights_of(u: np.ndarray, alpha: float, absorb_scale: bool = True) -> np.ndarray:
    w, ok = sample_weights(Tensor((u @ u.T).astype(np.float32)), alpha, absorb_scale)
    assert bool(ok.asnumpy())
    return w.asnumpy().astype(np.float64)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_coefficients_solve_the_damped_fisher_system(scale) -> None:
    """F1 for gradients of any size: U w / N = lam (F + lam I)^-1 gbar."""
    u = np.random.default_rng(0).standard_normal((6, 11)) * np.sqrt(scale)
    w = weights_of(u, 0.03)
    lam = 0.03 * np.linalg.norm(u @ u.T)
    expected = lam * np.linalg.solve(u.T @ u / 6 + lam * np.eye(11), u.mean(0))
    np.testing.assert_allclose(u.T @ w / 6, expected, atol=1e-5 * np.abs(expected).max())


def test_large_damping_gives_the_plain_gradient() -> None:
    """F4."""
    u = np.random.default_rng(1).standard_normal((8, 20))
    np.testing.assert_allclose(weights_of(u, 1e6), 1.0, atol=1e-4)


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.1])
def test_sum_of_coefficients(alpha) -> None:
    """F5: 0 < sum c~ <= 1, that is 0 < mean of w <= 1."""
    for seed in range(5):
        u = np.random.default_rng(seed).standard_normal((16, 9)) + 0.5
        assert 0 < weights_of(u, alpha).mean() <= 1


def test_duplicates_and_orthogonal_samples() -> None:
    """F6: equal samples share a coefficient; orthogonal ones have lam / (lam + s / N) / N."""
    u = np.random.default_rng(2).standard_normal((7, 30))
    u[5] = u[2]
    w = weights_of(u, 0.01)
    assert w[5] == pytest.approx(w[2], rel=1e-5)
    assert abs(w[5] - w[0]) > 1e-3
    n, s, alpha = 128, 3.0, 0.01
    lam = alpha * s * np.sqrt(n)
    expected = lam / (lam + s / n)
    assert expected == pytest.approx(0.94, abs=0.005)  # the number in methods.md
    w = weights_of(np.sqrt(s) * np.eye(n), alpha)
    np.testing.assert_allclose(w, expected, rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.1])
def test_no_component_is_shortened_below_the_bound(alpha) -> None:
    """1 / (1 + 1 / (alpha N)), because ||K||_2 <= ||K||_F = lam / alpha; equal samples reach it."""
    n = 16
    bound = 1 / (1 + 1 / (alpha * n))
    u = np.random.default_rng(4).standard_normal((n, 5)) * [9.0, 4.0, 2.0, 1.0, 0.5]
    _, basis = np.linalg.eigh(u.T @ u / n)
    shares = (basis.T @ u.T @ weights_of(u, alpha) / n) / (basis.T @ u.mean(0))
    assert np.all(shares > bound) and np.all(shares < 1)
    equal = np.tile(u[:1], (n, 1))
    np.testing.assert_allclose(weights_of(equal, alpha), bound, rtol=1e-4)


def test_absorbing_multiplies_by_lam() -> None:
    """F8: absorbed == lam * NGD."""
    u = np.random.default_rng(3).standard_normal((6, 5))
    lam = 0.05 * np.linalg.norm(u @ u.T)
    np.testing.assert_allclose(weights_of(u, 0.05), lam * weights_of(u, 0.05, False), rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_failed_solve_gives_the_plain_gradient_and_says_so(bad) -> None:
    k = np.eye(4, dtype=np.float32)
    k[1, 2] = bad
    w, ok = sample_weights(Tensor(k), 0.01, True)
    assert not bool(ok.asnumpy())
    np.testing.assert_array_equal(w.asnumpy(), np.ones(4))


def test_a_dead_layer_keeps_weights_of_one() -> None:
    np.testing.assert_allclose(weights_of(np.zeros((4, 3)), 0.01), 1.0, rtol=1e-5)


def test_oracle_vectors_are_the_gradients_parts() -> None:
    """The oracle itself: the mean of the per-sample gradients is the gradient."""
    net, x, labels = conv_net()
    oracle = oracle_net(net)
    oracle.loss(x, labels)
    for layer in covered(oracle):
        a, g = positions(layer)
        assert a.shape[:3] == g.shape[:3]
        flat = per_sample(layer).mean(0)
        whole = [layer.d["weight"].reshape(a.shape[1], g.shape[3], -1)]
        if "bias" in layer.p:
            whole.append(layer.d["bias"].reshape(a.shape[1], g.shape[3], 1))
        np.testing.assert_allclose(flat, np.concatenate(whole, 2).ravel(), atol=1e-12)
