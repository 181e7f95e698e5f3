"""VGG-11 with BatchNorm for 32x32 images.

The convolutions are configuration A of Simonyan and Zisserman, "Very Deep Convolutional Networks
for Large-Scale Image Recognition" (2015). After five poolings a 32x32 image is one position of 512
features, so a single Dense layer takes the place of the paper's three.
"""

from __future__ import annotations

from mindspore import Tensor, nn
from mindspore.common.initializer import HeNormal

from mindspore_thor.errors import UserError

# Output channels of the 3x3 convolutions of each stage; 2x2 max pooling ends a stage.
VGG11_STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))


class VGG(nn.Cell):
    """Stages of 3x3 convolutions with BatchNorm and ReLU, average over positions, one Dense layer.

    Args:
        stages: Output channels of the convolutions of each stage.
        num_classes: Number of outputs.
        in_channels: Channels of the images.

    Raises:
        UserError: A number is not positive.
    """

    def __init__(
        self, stages: tuple[tuple[int, ...], ...], num_classes: int, in_channels: int
    ) -> None:
        super().__init__()
        if min(num_classes, in_channels, *(width for stage in stages for width in stage)) < 1:
            raise UserError(
                f"num_classes {num_classes}, in_channels {in_channels} and all widths of vgg must "
                "be at least 1: choose larger ones"
            )
        cells: list[nn.Cell] = []
        channels = in_channels
        for stage in stages:
            for width in stage:
                init = HeNormal(mode="fan_out", nonlinearity="relu")
                cells.append(
                    nn.Conv2d(channels, width, 3, pad_mode="pad", padding=1, weight_init=init)
                )
                cells += [nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            cells.append(nn.MaxPool2d(2, 2))
        self.features = nn.SequentialCell(cells)
        self.head = nn.Dense(channels, num_classes)

    def construct(self, x: Tensor) -> Tensor:
        """Map images [N, in_channels, H, W], H and W >= 32, to logits [N, num_classes]."""
        return self.head(self.features(x).mean((2, 3)))


def vgg11(num_classes: int = 10, in_channels: int = 3, width: float = 1.0) -> VGG:
    """Return VGG-11 with BatchNorm; ``width`` multiplies all channels, see also ``VGG``."""
    stages = tuple(tuple(round(size * width) for size in stage) for stage in VGG11_STAGES)
    return VGG(stages, num_classes, in_channels)
