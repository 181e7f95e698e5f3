"""The small residual networks for 32x32 images (He et al., 2016, section 4.2).

Three stages of 16, 32 and 64 channels after one 3x3 convolution. The paper's shortcut without
parameters (option A) is not used: where the shape changes there is a 1x1 convolution with BatchNorm
(option B), so the nets have a few more parameters than the paper's, and every layer is one that a
second-order method can treat.
"""

from __future__ import annotations

from .resnet import BasicBlock, ResNet


def _cifar_resnet(
    depth: int, num_classes: int, in_channels: int, width: float, zero_init_last_gamma: bool
) -> ResNet:
    blocks = (depth - 2) // 6
    widths = [round(channels * width) for channels in (16, 32, 64)]
    return ResNet(
        BasicBlock, [blocks] * 3, widths, num_classes, in_channels, "cifar", zero_init_last_gamma
    )


def resnet20(
    num_classes: int = 10,
    in_channels: int = 3,
    width: float = 1.0,
    zero_init_last_gamma: bool = False,
) -> ResNet:
    """Return the CIFAR ResNet-20; ``width`` multiplies all channels, see also ``ResNet``."""
    return _cifar_resnet(20, num_classes, in_channels, width, zero_init_last_gamma)


def resnet32(
    num_classes: int = 10,
    in_channels: int = 3,
    width: float = 1.0,
    zero_init_last_gamma: bool = False,
) -> ResNet:
    """Return the CIFAR ResNet-32; ``width`` multiplies all channels, see also ``ResNet``."""
    return _cifar_resnet(32, num_classes, in_channels, width, zero_init_last_gamma)


def resnet56(
    num_classes: int = 10,
    in_channels: int = 3,
    width: float = 1.0,
    zero_init_last_gamma: bool = False,
) -> ResNet:
    """Return the CIFAR ResNet-56; ``width`` multiplies all channels, see also ``ResNet``."""
    return _cifar_resnet(56, num_classes, in_channels, width, zero_init_last_gamma)
