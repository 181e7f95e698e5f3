"""A multilayer perceptron for small images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from mindspore import Tensor, nn
from mindspore.common.initializer import HeNormal

from mindspore_thor.errors import UserError

MOST_WEIGHTS = 2**30
"""More do not fit into a machine's memory with an optimizer's state."""


class MLP(nn.Cell):
    """Dense layers with ReLU between them, on flattened images.

    Args:
        sizes: Features of the input, of each hidden layer and of the output.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        dense = [
            nn.Dense(before, after, weight_init=HeNormal(nonlinearity="relu"), bias_init="zeros")
            for before, after in zip(sizes, sizes[1:])
        ]
        pairs = chain.from_iterable((layer, nn.ReLU()) for layer in dense)
        self.flatten = nn.Flatten()
        self.layers = nn.SequentialCell(list(pairs)[:-1])

    def construct(self, x: Tensor) -> Tensor:
        """Map images [N, C, H, W] to logits [N, sizes[-1]]."""
        return self.layers(self.flatten(x))


def mlp(
    num_classes: int = 10,
    in_channels: int = 1,
    image_size: int = 28,
    hidden: Sequence[int] = (512, 256),
) -> MLP:
    """Return an MLP for square images.

    Args:
        num_classes: Number of outputs.
        in_channels: Channels of the images.
        image_size: Rows and columns of the images.
        hidden: Features of each hidden layer; empty gives a linear classifier.

    Raises:
        UserError: A size is not positive.
    """
    sizes = [in_channels * image_size * image_size, *hidden, num_classes]
    if min(sizes) < 1:
        raise UserError(f"the layer sizes {sizes} of mlp must be at least 1: choose larger ones")
    if sum(before * after for before, after in zip(sizes, sizes[1:])) > MOST_WEIGHTS:
        raise UserError(f"mlp would have more than {MOST_WEIGHTS} weights: choose smaller layers")
    return MLP(sizes)
