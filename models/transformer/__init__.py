"""Transformers for translation."""

from __future__ import annotations

from .search import Translator, translate
from .sizes import (
    transformer,
    transformer_base,
    transformer_big,
    transformer_fngd,
    transformer_small,
    transformer_tiny,
)
from .transformer import BOS, EOS, PAD, UNK, Transformer

__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "UNK",
    "Transformer",
    "Translator",
    "transformer",
    "transformer_base",
    "transformer_big",
    "transformer_fngd",
    "transformer_small",
    "transformer_tiny",
    "translate",
]
