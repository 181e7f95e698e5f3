"""Which positions are padding, and what a mark does to a gradient."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from padded import AT_THE_ENDS, padded, targets_of, token_net

from mindspore_thor import TokenMeanLoss, mark_tokens
from mindspore_thor.layers.tokens import SENTINEL, real_positions


def test_runs_of_zeros_at_the_ends_are_padding() -> None:
    """Behind, before, on both sides; zeros between others are real; nothing but zeros is none."""
    live = np.array([[1, 1, 1, 0, 0], [0, 0, 1, 0, 1], [0, 1, 0, 1, 0], [1] * 5, [0] * 5])
    expected = np.array([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 1, 1, 1, 0], [1] * 5, [0] * 5])
    gradient = np.random.default_rng(0).standard_normal((5, 5, 3)) * live[:, :, None]
    gradient[0, 2] = [0, SENTINEL, 0]
    found = real_positions(Tensor(gradient.astype(np.float32))).asnumpy()
    np.testing.assert_array_equal(found, expected[:, :, None])
    # With more axes the sequence is the last but one.
    several = Tensor(gradient.astype(np.float32).reshape((1, 5, 5, 3)))
    np.testing.assert_array_equal(real_positions(several).asnumpy()[0], expected[:, :, None])


MASK = np.array([[True, True, False], [True, False, False]])


def marked_gradient(gradient: np.ndarray, mode: int) -> np.ndarray:
    """What comes out of the mark's backward pass, and a check that forward nothing happens."""
    ms.set_context(mode=mode)
    x = Tensor(np.random.default_rng(1).standard_normal(gradient.shape).astype(gradient.dtype))
    try:
        assert (mark_tokens(x, Tensor(MASK)).asnumpy() == x.asnumpy()).all()
        back = ops.GradOperation(sens_param=True)(Marked())
        return back(x, Tensor(MASK), Tensor(gradient)).asnumpy()
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)


class Marked(nn.Cell):
    def construct(self, x, mask):
        return mark_tokens(x, mask)


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def test_a_mark_alters_rows_without_gradient_alone(mode) -> None:
    gradient = np.random.default_rng(2).standard_normal((2, 3, 4)).astype(np.float32)
    gradient[0, 1] = 0.0  # a dead token
    gradient[1, 1] = 0.0
    found = marked_gradient(gradient, mode)
    # Bit by bit, where there is a gradient.
    np.testing.assert_array_equal(found[0, 0], gradient[0, 0])
    np.testing.assert_array_equal(found[1, 0], gradient[1, 0])
    np.testing.assert_array_equal(found[0, 1], np.full(4, SENTINEL, np.float32))
    np.testing.assert_array_equal(found[~MASK], 0.0)


def test_half_precision_gradients_keep_their_bits() -> None:
    """Where the smallest number is not nothing beside the others."""
    gradient = np.full((2, 3, 2), 3e-7, np.float16)
    gradient[0, 1] = 0.0
    found = marked_gradient(gradient, ms.GRAPH_MODE)
    np.testing.assert_array_equal(found[0, 0], gradient[0, 0])
    np.testing.assert_array_equal(found[1, 0], gradient[1, 0])
    assert (found[0, 1] == np.float16(2.0**-24)).all()
    np.testing.assert_array_equal(found[~MASK], 0.0)


def momentum_weights(marked: bool) -> list[np.ndarray]:
    """A net's weights after three steps of MindSpore's own training."""
    net = token_net(marked)
    ids = Tensor(padded(AT_THE_ENDS, 6))
    targets = Tensor(padded(targets_of(AT_THE_ENDS), 6))
    optimizer = nn.Momentum(net.trainable_params(), 0.1, 0.9)
    step = nn.TrainOneStepCell(nn.WithLossCell(net, TokenMeanLoss()), optimizer)
    for _ in range(3):
        step(ids, targets)
    return [p.asnumpy() for p in net.trainable_params()]


def test_marks_change_nothing_in_plain_training() -> None:
    for plain, marked in zip(momentum_weights(False), momentum_weights(True)):
        np.testing.assert_allclose(marked, plain, rtol=0, atol=1e-7)
