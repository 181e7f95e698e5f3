"""Transformers of the usual sizes."""

from __future__ import annotations

from collections.abc import Mapping

from mindspore_thor.errors import UserError

from ..mlp.mlp import MOST_WEIGHTS
from .transformer import UNK, Transformer


def parameter_count(
    vocab_size: int,
    width: int,
    hidden: int,
    encoder_layers: int,
    decoder_layers: int,
    tied: bool,
    norm_first: bool,
    attention_bias: bool,
) -> int:
    """Return how many parameters a Transformer has; the arguments are the factory's."""
    attention = 4 * width * (width + attention_bias)
    feed_forward = 2 * width * hidden + hidden + width
    norm = 2 * width
    encoder = encoder_layers * (attention + feed_forward + 2 * norm)
    decoder = decoder_layers * (2 * attention + feed_forward + 3 * norm)
    tables = (1 if tied else 3) * vocab_size * width
    return tables + encoder + decoder + (2 * norm if norm_first else 0)


def check_attention_net(
    title: str,
    sizes: Mapping[str, int],
    shares: Mapping[str, float],
    weights: int,
) -> None:
    """Refuse sizes that make no net of attention layers.

    Args:
        title: Name of the model.
        sizes: All that must be at least 1; ``heads`` and ``width`` among them.
        shares: Dropouts.
        weights: How many weights the net, or its largest constant, has.

    Raises:
        UserError: A size is not positive or the heads do not divide the width, a share is not in
            [0, 1), or the net is too large.
    """
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"{name} of {title} is {size}: give at least 1")
    if sizes["width"] % sizes["heads"]:
        raise UserError(
            f"{sizes['heads']} heads of {title} do not divide its width {sizes['width']}: give a "
            "divisor"
        )
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise UserError(f"{name} of {title} is {share}: give a share from 0 to below 1")
    if weights > MOST_WEIGHTS:
        raise UserError(
            f"{title} would have more than {MOST_WEIGHTS} weights: choose smaller sizes"
        )


def transformer(
    vocab_size: int = 8000,
    width: int = 128,
    hidden: int = 256,
    heads: int = 4,
    encoder_layers: int = 4,
    decoder_layers: int = 4,
    dropout: float = 0.1,
    attention_dropout: float = 0.0,
    tied: bool = True,
    norm_first: bool = True,
    attention_bias: bool = False,
    max_length: int = 512,
) -> Transformer:
    """Return a Transformer; see its class for the arguments.

    Raises:
        UserError: A size is not positive or the heads do not divide the width, a dropout is not in
            [0, 1), or the net is too large.
    """
    if vocab_size <= UNK:
        raise UserError(
            f"vocab_size of transformer is {vocab_size}: give at least {UNK + 1}, for pad, bos, "
            "eos and unk"
        )
    sizes = {
        "width": width,
        "hidden": hidden,
        "heads": heads,
        "encoder_layers": encoder_layers,
        "decoder_layers": decoder_layers,
        "max_length": max_length,
    }
    shares = {"dropout": dropout, "attention_dropout": attention_dropout}
    count = parameter_count(
        vocab_size, width, hidden, encoder_layers, decoder_layers, tied, norm_first, attention_bias
    )
    check_attention_net("transformer", sizes, shares, max(count, max_length * width))
    return Transformer(
        vocab_size,
        width,
        hidden,
        heads,
        encoder_layers,
        decoder_layers,
        float(dropout),
        float(attention_dropout),
        tied,
        norm_first,
        attention_bias,
        max_length,
    )


def transformer_tiny(
    vocab_size: int = 8000,
    dropout: float = 0.3,
    attention_dropout: float = 0.0,
    tied: bool = True,
    norm_first: bool = False,
    attention_bias: bool = True,
    max_length: int = 512,
) -> Transformer:
    """Return the smallest one of machine translation's literature: d 128, hidden 256, 4 + 4 layers.

    Defaults as far as fairseq's ``transformer_tiny`` is known for Multi30K: post-norm, biases,
    dropout 0.3. See :func:`transformer` for the arguments and errors.
    """
    return transformer(
        vocab_size, 128, 256, 4, 4, 4,
        dropout, attention_dropout, tied, norm_first, attention_bias, max_length,
    )  # fmt: skip


def transformer_small(
    vocab_size: int = 8000,
    dropout: float = 0.1,
    attention_dropout: float = 0.0,
    tied: bool = True,
    norm_first: bool = False,
    attention_bias: bool = True,
    max_length: int = 512,
) -> Transformer:
    """Return a Transformer with d 256, hidden 512, 8 heads and 3 + 3 layers.

    See :func:`transformer` for the arguments and errors.
    """
    return transformer(
        vocab_size, 256, 512, 8, 3, 3,
        dropout, attention_dropout, tied, norm_first, attention_bias, max_length,
    )  # fmt: skip


def transformer_base(
    vocab_size: int = 36560,
    dropout: float = 0.1,
    attention_dropout: float = 0.0,
    tied: bool = True,
    norm_first: bool = True,
    attention_bias: bool = False,
    max_length: int = 512,
) -> Transformer:
    """Return Vaswani's base: d 512, hidden 2048, 8 heads, 6 + 6 layers.

    Defaults of tensor2tensor and MindSpore's model zoo: pre-norm, one table, attentions without
    biases. See :func:`transformer` for the arguments and errors.
    """
    return transformer(
        vocab_size, 512, 2048, 8, 6, 6,
        dropout, attention_dropout, tied, norm_first, attention_bias, max_length,
    )  # fmt: skip


def transformer_fngd(
    vocab_size: int = 8000,
    dropout: float = 0.1,
    attention_dropout: float = 0.0,
    tied: bool = True,
    norm_first: bool = False,
    attention_bias: bool = False,
    max_length: int = 512,
) -> Transformer:
    """Return FNGD's net: the sizes of ``transformer_base``, in post-norm, for Multi30K.

    The paper gives d, hidden and heads; layers, vocabulary and the rest were chosen, after the code
    that it probably used. See :func:`transformer` for the arguments and errors.
    """
    return transformer(
        vocab_size, 512, 2048, 8, 6, 6,
        dropout, attention_dropout, tied, norm_first, attention_bias, max_length,
    )  # fmt: skip


def transformer_big(
    vocab_size: int = 36560,
    dropout: float = 0.3,
    attention_dropout: float = 0.0,
    tied: bool = True,
    norm_first: bool = True,
    attention_bias: bool = False,
    max_length: int = 512,
) -> Transformer:
    """Return Vaswani's big: d 1024, hidden 4096, 16 heads, 6 + 6 layers.

    With the defaults, those of MindSpore's model zoo, it has 213.7 million parameters. See
    :func:`transformer` for the arguments and errors.
    """
    return transformer(
        vocab_size, 1024, 4096, 16, 6, 6,
        dropout, attention_dropout, tied, norm_first, attention_bias, max_length,
    )  # fmt: skip
