"""Multilayer perceptron."""

from __future__ import annotations

from models.mlp.mlp import MLP, mlp

__all__ = ["MLP", "mlp"]
