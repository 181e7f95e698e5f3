"""Multilayer perceptron."""

from __future__ import annotations

from .mlp import MLP, mlp

__all__ = ["MLP", "mlp"]
