"""Data for pre-training BERT: documents or made samples, masked words, exact batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mindspore_thor.lazy import lazy_names

if TYPE_CHECKING:
    from mindspore_thor.data.pretraining.factory import available_pretraining, create_pretraining
    from mindspore_thor.data.pretraining.options import PretrainingOptions
    from mindspore_thor.data.pretraining.pipeline import PretrainingData
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "available_pretraining": f"{__name__}.factory",
            "create_pretraining": f"{__name__}.factory",
            "PretrainingOptions": f"{__name__}.options",
            "PretrainingData": f"{__name__}.pipeline",
        },
    )

__all__ = [
    "PretrainingData",
    "PretrainingOptions",
    "available_pretraining",
    "create_pretraining",
]
