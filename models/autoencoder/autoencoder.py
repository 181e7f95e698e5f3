"""The deep autoencoder of Hinton & Salakhutdinov (2006), a classic test of optimizers.

784-1000-500-250-30 and back in mirror image. Tanh between the layers and a linear code, as in the
KFAC benchmark (``examples/autoencoder_mnist`` of kfac-jax).
"""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import Tensor, nn
from mindspore.common.initializer import XavierUniform

from mindspore_thor.errors import UserError

from ..mlp.mlp import MOST_WEIGHTS


class Autoencoder(nn.Cell):
    """Dense layers with tanh between them, on flattened images; the code has no activation.

    Args:
        sizes: Features of the input, of each hidden layer of the encoder and of the code.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        there_and_back = [*sizes, *reversed(sizes[:-1])]
        code = len(sizes) - 2
        layers: list[nn.Cell] = []
        for index, (before, after) in enumerate(zip(there_and_back, there_and_back[1:])):
            layers.append(nn.Dense(before, after, weight_init=XavierUniform(), bias_init="zeros"))
            if index not in (code, len(there_and_back) - 2):
                layers.append(nn.Tanh())
        self.flatten = nn.Flatten()
        self.layers = nn.SequentialCell(layers)

    def construct(self, x: Tensor) -> Tensor:
        """Map images [N, C, H, W] to the logits of their pixels, [N, C * H * W]."""
        return self.layers(self.flatten(x))


def autoencoder(
    in_channels: int = 1,
    image_size: int = 28,
    hidden: Sequence[int] = (1000, 500, 250, 30),
) -> Autoencoder:
    """Return an autoencoder for square images.

    Args:
        in_channels: Channels of the images.
        image_size: Rows and columns of the images.
        hidden: Features of each layer of the encoder; the last one is the code.

    Raises:
        UserError: A size is not positive, or there is no code.
    """
    sizes = [in_channels * image_size * image_size, *hidden]
    if len(sizes) < 2 or min(sizes) < 1:
        raise UserError(
            f"the layer sizes {sizes} of autoencoder must be at least 1, with a code at the end: "
            "choose larger ones"
        )
    if 2 * sum(before * after for before, after in zip(sizes, sizes[1:])) > MOST_WEIGHTS:
        raise UserError(
            f"autoencoder would have more than {MOST_WEIGHTS} weights: choose smaller layers"
        )
    return Autoencoder(sizes)
