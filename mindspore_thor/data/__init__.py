"""Data sets as exactly repeatable streams of batches, on top of ``mindspore.dataset``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mindspore_thor.lazy import lazy_names

if TYPE_CHECKING:
    from mindspore_thor.data.factory import available_data, create_data
    from mindspore_thor.data.pipeline import Data, user_error_in
else:
    # scripts/get_cifar10.py and get_text.py run without MindSpore.
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "Data": "mindspore_thor.data.pipeline",
            "available_data": "mindspore_thor.data.factory",
            "create_data": "mindspore_thor.data.factory",
            "user_error_in": "mindspore_thor.data.pipeline",
        },
    )

__all__ = ["Data", "available_data", "create_data", "user_error_in"]
