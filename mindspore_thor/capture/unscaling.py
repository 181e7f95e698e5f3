"""What undoes the loss scale on an output gradient: a cell for each way.

One cell with a question in it would cost the compiler more, in every layer.
"""

from __future__ import annotations

from mindspore import Tensor, nn

from mindspore_thor.graph.operators import MUL


class _AsGiven(nn.Cell):
    """No loss scale has changed the gradient."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)

    def construct(self, dout: Tensor, unscale: Tensor) -> Tensor:
        return dout


class _Fixed(nn.Cell):
    """The loss scale never changes."""

    def __init__(self, inverse_scale: float) -> None:
        super().__init__(auto_prefix=False)
        self.inverse_scale = inverse_scale

    def construct(self, dout: Tensor, unscale: Tensor) -> Tensor:
        return MUL(dout, self.inverse_scale)


class _ByParameter(nn.Cell):
    """It changes while the net trains, and the argument undoes it."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)

    def construct(self, dout: Tensor, unscale: Tensor) -> Tensor:
        return MUL(dout, unscale)


BY_PARAMETER = _ByParameter()
"""``(dout, unscale) -> dout * unscale``."""


def unscaling(inverse_scale: float) -> nn.Cell:
    """``(dout, unscale) -> dout`` times a number that is known beforehand.

    Args:
        inverse_scale: what undoes the loss scale; 1 for none.
    """
    return _AsGiven() if inverse_scale == 1.0 else _Fixed(inverse_scale)
