"""Language models by their sizes."""

from __future__ import annotations

from ..transformer.sizes import check_attention_net
from .language_model import LanguageModel


def parameter_count(vocab_size: int, width: int, hidden: int, layers: int) -> int:
    """Return how many parameters a language model has; the arguments are the factory's."""
    norm = 2 * width
    layer = 4 * width * (width + 1) + 2 * width * hidden + hidden + width + 2 * norm
    return vocab_size * width + layers * layer + norm


def language_model(
    vocab_size: int = 100,
    width: int = 128,
    hidden: int = 512,
    heads: int = 4,
    layers: int = 2,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    context: int = 128,
) -> LanguageModel:
    """Return a decoder-only language model; see its class for the arguments.

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
        "context": context,
    }
    shares = {"dropout": dropout, "attention_dropout": attention_dropout}
    count = parameter_count(vocab_size, width, hidden, layers)
    check_attention_net("language_model", sizes, shares, max(count, context * width))
    return LanguageModel(
        vocab_size,
        width,
        hidden,
        heads,
        layers,
        float(dropout),
        float(attention_dropout),
        context,
    )
