"""Data sets as exactly repeatable streams of batches, on top of ``mindspore.dataset``."""

from __future__ import annotations

from mindspore_thor.data.factory import available_data, create_data
from mindspore_thor.data.pipeline import Data, user_error_in

__all__ = ["Data", "available_data", "create_data", "user_error_in"]
