"""Decoder-only language models."""

from __future__ import annotations

from .language_model import LanguageModel
from .sizes import language_model

__all__ = ["LanguageModel", "language_model"]
