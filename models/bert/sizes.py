"""BERTs of the usual sizes."""

from __future__ import annotations

from ..transformer.sizes import check_attention_net
from .bert import Bert

WORDS = 30522
"""Ids of the vocabulary that Google trained for English without case."""


def parameter_count(
    vocab_size: int, width: int, hidden: int, layers: int, max_length: int = 512
) -> int:
    """Return how many parameters a BERT with both heads has; the arguments are the factory's."""
    square = width * (width + 1)
    norm = 2 * width
    tables = (vocab_size + max_length + 2) * width + norm
    layer = 4 * square + 2 * width * hidden + hidden + width + 2 * norm
    heads = 2 * square + norm + vocab_size + 2 * (width + 1)
    return tables + layers * layer + heads


def bert(
    vocab_size: int = 1000,
    width: int = 64,
    hidden: int = 256,
    heads: int = 4,
    layers: int = 2,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    max_length: int = 512,
) -> Bert:
    """Return a BERT; see its class for the arguments.

    Raises:
        UserError: A size is not positive or the heads do not divide the width, a dropout is not in
            [0, 1), or the net is too large.
    """
    sizes = {
        "vocab_size": vocab_size,
        "width": width,
        "hidden": hidden,
        "heads": heads,
        "layers": layers,
        "max_length": max_length,
    }
    shares = {"dropout": dropout, "attention_dropout": attention_dropout}
    count = parameter_count(vocab_size, width, hidden, layers, max_length)
    check_attention_net("bert", sizes, shares, count)
    return Bert(
        vocab_size,
        width,
        hidden,
        heads,
        layers,
        float(dropout),
        float(attention_dropout),
        max_length,
    )


def bert_tiny(
    vocab_size: int = WORDS,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    max_length: int = 512,
) -> Bert:
    """Return the smallest BERT of the literature: d 128, hidden 512, 2 heads, 2 layers.

    See :func:`bert` for the arguments and errors.
    """
    return bert(vocab_size, 128, 512, 2, 2, dropout, attention_dropout, max_length)


def bert_base(
    vocab_size: int = WORDS,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    max_length: int = 512,
) -> Bert:
    """Return the base of Devlin et al.: d 768, hidden 3072, 12 heads, 12 layers, 110M parameters.

    See :func:`bert` for the arguments and errors.
    """
    return bert(vocab_size, 768, 3072, 12, 12, dropout, attention_dropout, max_length)


def bert_large(
    vocab_size: int = WORDS,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    max_length: int = 512,
) -> Bert:
    """Return the large one: d 1024, hidden 4096, 16 heads, 24 layers, 336M parameters.

    See :func:`bert` for the arguments and errors.
    """
    return bert(vocab_size, 1024, 4096, 16, 24, dropout, attention_dropout, max_length)
