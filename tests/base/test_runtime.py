"""What is set before anything is compiled."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from mindspore_thor.runtime import CALL_DEPTH, prepare_target, read_arguments_in_python


@pytest.mark.parametrize(("own", "expected"), [(1000, [CALL_DEPTH]), (1500, [])])
def test_calls_may_nest_deeper_unless_the_user_has_said(
    own: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """1000 is MindSpore's default; FNGD's backward pass of ResNet-50 is nested deeper."""
    asked: list[int] = []
    monkeypatch.setattr(ms, "set_recursion_limit", asked.append)
    before = ms.get_context("max_call_depth")
    ms.set_context(max_call_depth=own)
    try:
        prepare_target()
    finally:
        ms.set_context(max_call_depth=before)
    assert asked == expected


VALUES = np.arange(24).reshape(2, 3, 4).astype(np.float32)
SIX = Tensor(6)


@ms.jit
def shaped(x, number, tensor):
    """Arguments of every kind: numbers, a list, constant tensors, and what only a run knows."""
    return (
        ops.reshape(x, (6, -1)),
        ops.reshape(x, [4, 6]),
        ops.reshape(x, (SIX, 4)),
        ops.reshape(x, (number, -1)),
        ops.reshape(x, (tensor, 4)),
        x.sum((number - 6, 1)),
        ops.transpose(x, (2, 0, 1)),
        x[:, 1:3, ::2],
    )


@ms.jit(dynamic=1)
def joined_axes(x):
    """The shape is not known while it is compiled, from the second shape on."""
    return ops.reshape(x, (x.shape[0] * x.shape[1], -1))


def test_arguments_read_in_python_mean_the_same() -> None:
    assert read_arguments_in_python()
    found = shaped(Tensor(VALUES), ms.mutable(6), Tensor(6))
    rows = VALUES.reshape(6, 4)
    columns = VALUES.transpose(2, 0, 1)
    expected = (rows, VALUES.reshape(4, 6), rows, rows, rows, VALUES.sum((0, 1)), columns)
    for result, value in zip(found, (*expected, VALUES[:, 1:3, ::2])):
        np.testing.assert_array_equal(result.asnumpy(), value)
    for samples in (2, 5, 3):
        x = np.ones((samples, 3, 4), np.float32)
        assert joined_axes(Tensor(x)).shape == (samples * 3, 4)


def test_wrong_arguments_are_refused_as_before() -> None:
    assert read_arguments_in_python()

    @ms.jit
    def wrong(x):
        return ops.reshape(x, (2.5, 4))

    with pytest.raises(TypeError, match="shape=tuple<float, int>"):
        wrong(Tensor(VALUES))
