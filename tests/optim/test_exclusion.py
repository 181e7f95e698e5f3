"""Layers that a user leaves out; which names are accepted is in test_muon.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mindspore import Tensor
from oracle.bridge import oracle_net
from oracle.nets import mlp
from oracle.training import cross_entropy

from mindspore_thor import FNGD, THOR, TrainStep, UserError

RATE = 0.1


@pytest.mark.parametrize(
    ("cls", "options"), [(THOR, {}), (FNGD, {"steps_per_epoch": 2})], ids=["THOR", "FNGD"]
)
def test_an_excluded_layer_trains_with_the_plain_gradient(
    cls: Any, options: dict[str, Any]
) -> None:
    net, x, labels = mlp()
    optimizer = cls(net, RATE, momentum=0.0, weight_decay=0.0, exclude="last", **options)
    step = TrainStep(net, cross_entropy(), optimizer)
    rows = [row for row in optimizer.layer_report() if row.type == "Dense"]
    assert [row.covered for row in rows] == [True] * (len(rows) - 1) + [False]
    assert "last layer" in rows[-1].reason
    oracle = oracle_net(net)
    oracle.loss(x, labels)
    before = [p.asnumpy().astype(np.float64) for p in net.get_parameters()]
    step(Tensor(x), Tensor(labels))
    moved = [b - p.asnumpy() for b, p in zip(before, net.get_parameters())]
    plain = [RATE * d for d in oracle.gradients().values()]
    close = [np.allclose(m, d, atol=1e-6) for m, d in zip(moved, plain)]
    assert close[-2:] == [True, True]  # weight and bias
    assert not close[0]


def test_names_that_are_no_layers() -> None:
    net, _, _ = mlp()
    with pytest.raises(UserError, match="exclude='head' is no layer that THOR covers: 0, "):
        THOR(net, RATE, exclude=["head"])
