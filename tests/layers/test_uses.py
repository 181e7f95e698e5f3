"""Weights that others read than their layers, as the code of a network shows them."""

from __future__ import annotations

import pytest
from mindspore import Tensor, nn, ops

from mindspore_thor.layers.uses import used_outside


def product_with(layer: nn.Cell, x: Tensor) -> Tensor:
    return ops.matmul(x, layer.weight)


class Reader(nn.Cell):
    """Five Dense layers, to be read in different ways by subclasses."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Dense(4, 4), nn.Dense(4, 4)
        self.block = nn.SequentialCell(nn.Dense(4, 4), nn.ReLU())
        self.attention = nn.MultiheadAttention(4, 2)

    def construct(self, x):
        return self.block(self.b(self.a(x)))


class ByPath(Reader):
    def construct(self, x):
        return ops.matmul(self.b(x), self.a.weight)


class InLoop(Reader):
    def construct(self, x):
        for layer in self.block:
            x = ops.matmul(x, layer.weight)
        return x


class ByFunction(Reader):
    def construct(self, x):
        return product_with(self.a, x)


class ByMethod(Reader):
    def last(self, x):
        return ops.matmul(x, self.block[0].weight)

    def construct(self, x):
        return self.last(x)


@pytest.mark.parametrize(
    ("reader", "named"),
    [
        (Reader, {"attention.out_proj"}),
        (ByPath, {"attention.out_proj", "a"}),
        # Where it cannot be told which layer is meant, all of them are.
        (InLoop, {"attention.out_proj", "a", "b", "block.0"}),
        (ByFunction, {"attention.out_proj", "a", "b", "block.0"}),
        (ByMethod, {"attention.out_proj", "a", "b", "block.0"}),
    ],
)
def test_weights_that_others_read_are_found(reader, named) -> None:
    net = reader()
    found = used_outside(net)
    assert {name for name, cell in net.cells_and_names() if id(cell) in found} == named
