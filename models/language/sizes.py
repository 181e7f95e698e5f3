"""Language models by their sizes."""

from __future__ import annotations

from mindspore_thor.errors import UserError

from ..mlp.mlp import MOST_WEIGHTS
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
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"{name} of language_model is {size}: give at least 1")
    if width % heads:
        raise UserError(
            f"{heads} heads of language_model do not divide its width {width}: give a divisor"
        )
    for name, share in (("dropout", dropout), ("attention_dropout", attention_dropout)):
        if not 0 <= share < 1:
            raise UserError(f"{name} of language_model is {share}: give a share from 0 to below 1")
    if max(parameter_count(vocab_size, width, hidden, layers), context * width) > MOST_WEIGHTS:
        raise UserError(
            f"language_model would have more than {MOST_WEIGHTS} weights: choose smaller sizes"
        )
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
