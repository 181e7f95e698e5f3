"""Translation data: parallel text, its vocabulary, exactly repeatable batches of one length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mindspore_thor.lazy import lazy_names

if TYPE_CHECKING:
    from mindspore_thor.data.text.factory import available_text, create_text
    from mindspore_thor.data.text.options import SPLITS, TextOptions
    from mindspore_thor.data.text.pipeline import Dropped, EvaluationBatch, TextData
    from mindspore_thor.data.text.scores import Scores, translation_scores
    from mindspore_thor.data.text.vocabulary import Vocabulary, open_vocabulary
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            name: f"{__name__}.{module}"
            for module, names in {
                "factory": ("available_text", "create_text"),
                "options": ("SPLITS", "TextOptions"),
                "pipeline": ("Dropped", "EvaluationBatch", "TextData"),
                "scores": ("Scores", "translation_scores"),
                "vocabulary": ("Vocabulary", "open_vocabulary"),
            }.items()
            for name in names
        },
    )

__all__ = [
    "SPLITS",
    "Dropped",
    "EvaluationBatch",
    "Scores",
    "TextData",
    "TextOptions",
    "Vocabulary",
    "available_text",
    "create_text",
    "open_vocabulary",
    "translation_scores",
]
