"""Deep autoencoder."""

from __future__ import annotations

from models.autoencoder.autoencoder import Autoencoder, autoencoder

__all__ = ["Autoencoder", "autoencoder"]
