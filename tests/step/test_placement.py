"""Weights loaded between two steps, as a callback of ``ms.Model`` would do."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from oracle.bridge import randomise

from mindspore_thor import THOR, TrainStep
from mindspore_thor.step.placement import Placement


@pytest.mark.slow
def test_a_step_in_use_goes_on_from_loaded_weights(caplog: pytest.LogCaptureFixture) -> None:
    net = randomise(nn.SequentialCell(nn.Dense(5, 4, activation="relu"), nn.Dense(4, 3)), 2)
    start = {p.name: p.asnumpy().copy() for p in net.get_parameters()}
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    # Every second step collects and inverts anew, so that a run's steps 0, 1 are those of 2, 3.
    optimizer = THOR(
        net, 0.1, momentum=0.0, factor_interval=2, inverse_interval=2, trace_thresholds=(0.0, 0.0)
    )
    step = TrainStep(net, loss, optimizer)
    rng = np.random.default_rng(0)
    x = Tensor(rng.standard_normal((8, 5)).astype(np.float32))
    y = Tensor(rng.integers(0, 3, 8).astype(np.int32))
    first = [float(step(x, y).asnumpy()) for _ in range(4)]
    assert caplog.messages == []
    assert len(set(first)) == 4  # every step trains
    loaded = {name: Parameter(Tensor(value), name=name) for name, value in start.items()}
    ms.load_param_into_net(net, loaded)
    np.testing.assert_allclose([float(step(x, y).asnumpy()) for _ in range(4)], first, rtol=1e-6)
    assert caplog.messages == []
    assert [len(graph.compile_cache) for graph in (step.plain, step.capture, step.renew)] == [1] * 3


def test_nothing_changes_while_nothing_is_loaded() -> None:
    net = nn.Dense(2, 2)
    net(Tensor(np.ones((1, 2), np.float32)))  # MindSpore 2.7 gives no address before
    placement = Placement(net, net.get_parameters())
    assert not placement.changed()  # nothing is known before the first call
    placement.note()
    assert not placement.changed() and placement.bring_home() == []
    net.weight.set_data(Tensor(np.ones((2, 2), np.float32)))
    assert placement.changed()
    placement.note()
    assert not placement.changed()
    net.bias.set_data(Tensor(np.full(2, 0.5, np.float32)))
    assert placement.bring_home() == [net.bias]
    assert not placement.changed()
    np.testing.assert_array_equal(net.bias.asnumpy(), [0.5, 0.5])
