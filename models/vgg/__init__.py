"""VGG networks for small images."""

from __future__ import annotations

from .vgg import VGG, vgg11

__all__ = ["VGG", "vgg11"]
