"""Residual networks for ImageNet and for small images."""

from __future__ import annotations

from .cifar_resnet import resnet20, resnet32, resnet56
from .resnet import ResNet, resnet18, resnet34, resnet50, resnet101

__all__ = [
    "ResNet",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet50",
    "resnet56",
    "resnet101",
]
