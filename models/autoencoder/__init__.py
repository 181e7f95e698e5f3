"""Deep autoencoder."""

from __future__ import annotations

from .autoencoder import Autoencoder, autoencoder

__all__ = ["Autoencoder", "autoencoder"]
