"""Running text: every next character."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor, nn

from mindspore_thor.data.files import check_name
from mindspore_thor.data.language.factory import (
    LONGEST,
    TOY_CHARACTERS,
    available_language,
    create_language,
)
from mindspore_thor.data.language.pipeline import LanguageData
from mindspore_thor.data.language.text import PAD, SPECIAL
from mindspore_thor.errors import UserError
from mindspore_thor.run.language import BITS, VALID_LOSS, LanguageEvaluation
from mindspore_thor.run.options import option
from mindspore_thor.run.task import TRAIN, DataConfig, Request, Task
from mindspore_thor.step.token_loss import TokenMeanLoss


@dataclass(frozen=True)
class LanguageDataConfig(DataConfig):
    """Which text is trained on, and in which blocks."""

    name: str = option("toy_text", str, "data set")
    path: str | None = option(
        None, str, "folder of the text; null: made by a grammar", optional=True
    )
    batch_size: int = option(32, int, "blocks per update", low=1, most=65536)
    eval_batch_size: int = option(32, int, "blocks per evaluation batch", low=1, most=16384)
    block: int = option(128, int, "characters of a block", low=1, most=LONGEST)
    limit: int = option(0, int, "training blocks that are used; 0: all", low=0, most=10**9)
    characters: int = option(TOY_CHARACTERS, int, "characters of toy_text", low=1, most=10**8)
    vocab_size: int | None = option(
        None, int, "ids, as a run stores them; null: as the text has", low=3, most=2**21,
        optional=True,
    )  # fmt: skip
    fingerprint: str | None = option(
        None, str, "of the alphabet, as a run stores it; null: any", optional=True
    )


@dataclass(frozen=True)
class Language(Task):
    """Blocks of text: the mean loss over next characters, bits per character."""

    name: str = "language"
    metrics: tuple[str, ...] = (BITS,)
    lower_is_better: bool = True
    percent: bool = False
    data_config: type[DataConfig] = LanguageDataConfig
    loss_metric: str = VALID_LOSS

    def tested(self, data: LanguageDataConfig) -> bool:
        """Return True: there are a validation and a test split."""
        return True

    def open(self, data: LanguageDataConfig, request: Request) -> LanguageData:
        """Open one split."""
        train = request.split == TRAIN
        opened = create_language(
            data.name,
            data.path,
            split=request.split,
            batch_size=data.batch_size // request.rank_size if train else data.eval_batch_size,
            block=data.block,
            seed=request.seed,
            characters=data.characters,
            limit=data.limit,
            rank=request.rank,
            rank_size=request.rank_size,
            fingerprint=data.fingerprint,
        )
        most = request.options.get("context")
        if type(most) is int and data.block > most:
            raise UserError(
                f"model.context is {most}, but a block has {data.block} characters: raise it, or "
                "lower data.block"
            )
        return opened

    def model_options(self, data: LanguageData) -> dict[str, Any]:
        """Return the number of ids, and the length of a block."""
        return {"vocab_size": data.alphabet.size, "context": data.block}

    def known_options(self, data: LanguageDataConfig, beside: Path) -> dict[str, Any]:
        """Return the number of ids and the length of a block, as a run's configuration has them."""
        check_name(data.name, available_language(), "text")
        if data.vocab_size is None:
            raise UserError(
                "data.vocab_size is missing, the number of ids of the text: use the run folder's "
                "configuration"
            )
        return {"vocab_size": data.vocab_size, "context": data.block, "length": data.block}

    def example(self, options: Mapping[str, Any], size: int) -> tuple[np.ndarray, ...]:
        """Return ids, int32 [size, length]."""
        generator = np.random.default_rng(0)
        shape = (size, options["length"])
        return (generator.integers(SPECIAL, options["vocab_size"], shape).astype(np.int32),)

    def describe_inputs(self, data: LanguageDataConfig) -> str:
        """Say which ids there are."""
        return (
            f"characters by number: {PAD} behind a short block, 1 for one that the training text "
            f"does not have, from {SPECIAL} on its own in the order of their code points; the "
            "output is the logits of each next one"
        )

    def completed(self, config: LanguageDataConfig, data: LanguageData) -> LanguageDataConfig:
        """Return the section with the alphabet's size and fingerprint."""
        alphabet = data.alphabet
        return replace(config, vocab_size=alphabet.size, fingerprint=alphabet.fingerprint)

    def loss(self, label_smoothing: float) -> nn.Cell:
        """Return the mean over the tokens."""
        return TokenMeanLoss(label_smoothing=label_smoothing)

    def inputs(self, *batch: Tensor) -> tuple[Tensor, ...]:
        """Return ids, the noise of the dropout, and the labels."""
        return batch

    def evaluation(self, net: nn.Cell, data: LanguageData, config: Any = None) -> Any:
        """Return bits per character and the loss per token."""
        return LanguageEvaluation(net, data)

    def check_model(self, name: str, options: Mapping[str, Any]) -> None:
        """Refuse a model that is none of running text."""
        if "vocab_size" not in options or "context" not in options:
            raise UserError(f"model {name!r} is no language model; choose language_model")

    def notes(self, data: LanguageData) -> list[str]:
        """Return how many blocks there are, and what becomes of what fills none."""
        text = f"{data.blocks} blocks of {data.block} characters, {data.steps_per_epoch} batches"
        left = [f"{data.left_out} blocks fill no batch"] if data.left_out else []
        left += [f"{data.rest} characters fill no block"] if data.rest else []
        return [f"{text} an epoch; {', '.join(left)}" if left else f"{text} an epoch"]
