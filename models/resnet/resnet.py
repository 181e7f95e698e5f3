"""Residual networks (He et al., "Deep Residual Learning for Image Recognition", 2016).

The bottleneck block has its stride in the 3x3 convolution ("v1.5", as in the model zoo and in
torchvision), so the parameter counts are the published ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import Tensor, nn
from mindspore.common.initializer import HeNormal, initializer

from mindspore_thor.errors import UserError

STEMS = ("imagenet", "cifar")


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without bias, zero padding kernel // 2, He-normal weights (fan-out)."""
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel,
        stride,
        pad_mode="pad",
        padding=kernel // 2,
        has_bias=False,
        weight_init=HeNormal(mode="fan_out", nonlinearity="relu"),
    )


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Cell:
    """Return the identity, or a 1x1 convolution with BatchNorm where the shape changes."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.SequentialCell(
        conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels)
    )


class BasicBlock(nn.Cell):
    """Two 3x3 convolutions with a shortcut.

    Args:
        in_channels: Channels of the input.
        channels: Channels of both convolutions, and of the output.
        stride: Stride of the first convolution.
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = shortcut(in_channels, channels, stride)
        self.relu = nn.ReLU()

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The normalisation right before the addition."""
        return self.bn2

    def construct(self, x: Tensor) -> Tensor:
        """Map [N, in_channels, H, W] to [N, channels, H / stride, W / stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.shortcut(x))


class Bottleneck(nn.Cell):
    """1x1, 3x3 and 1x1 convolutions with a shortcut.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the 3x3 convolution; the output has four times as many.
        stride: Stride of the 3x3 convolution.
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = self.expansion * channels
        self.conv1 = conv(in_channels, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = conv(channels, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = shortcut(in_channels, out_channels, stride)
        self.relu = nn.ReLU()

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The normalisation right before the addition."""
        return self.bn3

    def construct(self, x: Tensor) -> Tensor:
        """Map [N, in_channels, H, W] to [N, 4 * channels, H / stride, W / stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + self.shortcut(x))


class ResNet(nn.Cell):
    """A stem, stages of residual blocks, global average pooling and one Dense layer.

    Args:
        block: ``BasicBlock`` or ``Bottleneck``.
        depths: Blocks in each stage.
        widths: Channels of each stage before the block's expansion; the stem has ``widths[0]``.
        num_classes: Number of outputs.
        in_channels: Channels of the images.
        stem: "imagenet" is a 7x7 convolution of stride 2 and 3x3 max pooling of stride 2, "cifar"
            one 3x3 convolution of stride 1.
        zero_init_last_gamma: Whether each block starts as its shortcut (Goyal et al., "Accurate,
            Large Minibatch SGD", 2017, section 5.1).

    Raises:
        UserError: The stem is unknown, or a number is not positive.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        widths: Sequence[int],
        num_classes: int,
        in_channels: int,
        stem: str,
        zero_init_last_gamma: bool,
    ) -> None:
        super().__init__()
        if stem not in STEMS:
            raise UserError(f"unknown stem '{stem}': choose one of {', '.join(STEMS)}")
        if min(num_classes, in_channels, *widths) < 1:
            raise UserError(
                f"num_classes {num_classes}, in_channels {in_channels} and the widths "
                f"{list(widths)} must be at least 1: choose larger ones"
            )
        channels = widths[0]
        if stem == "imagenet":
            first = [conv(in_channels, channels, 7, 2), nn.BatchNorm2d(channels), nn.ReLU()]
            # "same" padding as in the model zoo: one primitive that every back end has.
            first.append(nn.MaxPool2d(3, 2, pad_mode="same"))
        else:
            first = [conv(in_channels, channels, 3), nn.BatchNorm2d(channels), nn.ReLU()]
        self.stem = nn.SequentialCell(first)
        stages = []
        for index, (depth, width) in enumerate(zip(depths, widths)):
            blocks = []
            for place in range(depth):
                stride = 2 if index and not place else 1
                one = block(channels, width, stride)
                if zero_init_last_gamma:
                    gamma = one.last_norm.gamma
                    gamma.set_data(initializer("zeros", gamma.shape, gamma.dtype))
                blocks.append(one)
                channels = width * block.expansion
            stages.append(nn.SequentialCell(blocks))
        self.stages = nn.SequentialCell(stages)
        self.head = nn.Dense(channels, num_classes)

    def construct(self, x: Tensor) -> Tensor:
        """Map images [N, in_channels, H, W] to logits [N, num_classes]."""
        x = self.stages(self.stem(x))
        return self.head(x.mean((2, 3)))


WIDTHS = (64, 128, 256, 512)


def resnet18(
    num_classes: int = 1000,
    in_channels: int = 3,
    stem: str = "imagenet",
    zero_init_last_gamma: bool = False,
) -> ResNet:
    """Return ResNet-18; for the arguments see ``ResNet``."""
    depths = (2, 2, 2, 2)
    return ResNet(BasicBlock, depths, WIDTHS, num_classes, in_channels, stem, zero_init_last_gamma)


def resnet34(
    num_classes: int = 1000,
    in_channels: int = 3,
    stem: str = "imagenet",
    zero_init_last_gamma: bool = False,
) -> ResNet:
    """Return ResNet-34; for the arguments see ``ResNet``."""
    depths = (3, 4, 6, 3)
    return ResNet(BasicBlock, depths, WIDTHS, num_classes, in_channels, stem, zero_init_last_gamma)


def resnet50(
    num_classes: int = 1000,
    in_channels: int = 3,
    stem: str = "imagenet",
    zero_init_last_gamma: bool = False,
) -> ResNet:
    """Return ResNet-50; for the arguments see ``ResNet``."""
    depths = (3, 4, 6, 3)
    return ResNet(Bottleneck, depths, WIDTHS, num_classes, in_channels, stem, zero_init_last_gamma)


def resnet101(
    num_classes: int = 1000,
    in_channels: int = 3,
    stem: str = "imagenet",
    zero_init_last_gamma: bool = False,
) -> ResNet:
    """Return ResNet-101; for the arguments see ``ResNet``."""
    depths = (3, 4, 23, 3)
    return ResNet(Bottleneck, depths, WIDTHS, num_classes, in_channels, stem, zero_init_last_gamma)
