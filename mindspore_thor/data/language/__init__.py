"""Running text in blocks, for language models."""

from mindspore_thor.data.language.factory import available_language, create_language
from mindspore_thor.data.language.pipeline import LanguageBatch, LanguageData

__all__ = ["LanguageBatch", "LanguageData", "available_language", "create_language"]
