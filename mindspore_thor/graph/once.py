"""A backward pass that nobody can differentiate by mistake."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from mindspore_thor.errors import UserError
from mindspore_thor.graph.messages import TWICE


@ops.constexpr
def _refuse() -> bool:
    raise UserError(TWICE)


class Once(nn.Cell):
    """The identity for a gradient on its way through a backward pass of our own.

    MindSpore cannot differentiate such a pass once more, and stops with an internal error. The
    derivative of this cell is looked up first, and only then: it says so in a line.
    """

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)

    def construct(self, dout: Tensor) -> Tensor:
        """The gradient itself."""
        return dout

    def bprop(self, dout: Tensor, out: Tensor, ddout: Tensor) -> tuple[Tensor]:
        """Never part of a graph that is run."""
        _refuse()
        return (ddout,)
