"""Layers that are alike share what holds constants only, and yet have statistics of their own."""

from __future__ import annotations

import pytest
from mindspore import nn, ops
from oracle.nets import batches, mlp
from oracle.optimizers import Thor
from oracle.training import compare, cross_entropy

from mindspore_thor import EKFAC, KFAC, THOR, TKFAC, Eva, TrainStep
from mindspore_thor.graph.shared import one_of_each, same_operator


def net_of_twins() -> nn.SequentialCell:
    """Convolutions in pairs: equal ones first, then one that differs in a single constant."""
    options = {"pad_mode": "pad", "padding": 1}
    return nn.SequentialCell(
        nn.Conv2d(3, 3, 3, **options),
        nn.Conv2d(3, 3, 3, **options),
        nn.Conv2d(3, 3, 3, stride=2, **options),
        nn.Conv2d(3, 4, 3, **options),
        nn.Conv2d(4, 4, 3, pad_mode="same"),
        nn.Conv2d(4, 4, 3, pad_mode="valid"),
        nn.Conv2d(4, 4, 3, group=2, pad_mode="valid"),
    )


@pytest.mark.parametrize("method", [THOR, KFAC, EKFAC, TKFAC, Eva])
def test_equal_layers_share_one_capture_and_no_others_do(method) -> None:
    net = net_of_twins()
    method(net, 0.1)
    captures = [id(layer.conv2d.capture) for layer in net]
    assert captures[0] == captures[1]
    assert len(set(captures)) == len(net) - 1


def test_a_trained_bias_makes_a_difference_where_it_is_covered() -> None:
    """KFAC's factor A covers a trained bias; the factor of a layer without one is smaller."""
    net = nn.SequentialCell(nn.Dense(3, 3), nn.Dense(3, 3), nn.Dense(3, 3, has_bias=False))
    KFAC(net, 0.1)
    first, second, without = (layer._thor_hook.capture for layer in net)
    assert first is second
    assert first is not without


def test_two_optimizers_share_nothing() -> None:
    captures = []
    for _ in range(2):
        net = net_of_twins()
        THOR(net, 0.1, loss_scale=2.0)
        captures.append({id(layer.conv2d.capture) for layer in net})
        captures.append(net)  # kept alive, so that no id is used twice
    assert not captures[0] & captures[2]


def test_operators_are_compared_by_their_attributes() -> None:
    make = one_of_each()
    first, equal = ops.Conv2D(4, 3, pad=1, pad_mode="pad"), ops.Conv2D(4, 3, pad=1, pad_mode="pad")
    other = ops.Conv2D(4, 3, pad=2, pad_mode="pad")
    assert same_operator(make, first) is first
    assert same_operator(make, equal) is first
    assert same_operator(make, other) is other
    own = nn.ReLU()  # what a user may have put there
    assert same_operator(make, own) is own
    assert same_operator(make, nn.ReLU()) is not own


def test_twins_train_like_the_oracle() -> None:
    """Three layers of one shape, each with its own factors."""
    net, x, labels = mlp(sizes=(5, 5, 5, 5))
    made = {}

    def make_step(n: nn.Cell) -> nn.Cell:
        made["optimizer"] = THOR(n, 0.1, split_dim=3)
        return TrainStep(n, cross_entropy(), made["optimizer"])

    errors, _, _ = compare(
        net,
        batches(x, labels, 2),
        make_step,
        lambda o: Thor(o, lr=0.1, momentum=0.9, split_dim=3),
    )
    assert max(errors.values()) < 2e-5, errors
    factors = [layer.factor_a().asnumpy() for layer in made["optimizer"].curvatures]
    assert abs(factors[0] - factors[1]).max() > 0.1
    assert abs(factors[1] - factors[2]).max() > 0.1
