"""BERT for pre-training."""

from __future__ import annotations

from .bert import Bert
from .sizes import bert, bert_base, bert_large, bert_tiny

__all__ = ["Bert", "bert", "bert_base", "bert_large", "bert_tiny"]
