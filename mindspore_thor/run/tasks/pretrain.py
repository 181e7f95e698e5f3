"""Masked words and next sentences (BERT)."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor, nn

from mindspore_thor.data.pretraining.factory import create_pretraining, pretraining_set
from mindspore_thor.data.pretraining.options import LONGEST, PretrainingOptions
from mindspore_thor.data.pretraining.pipeline import PretrainingData
from mindspore_thor.data.text.vocabulary import BOS, EOS, MODEL_FILE, PAD
from mindspore_thor.errors import UserError
from mindspore_thor.run.options import option
from mindspore_thor.run.pretraining import (
    MASKED,
    NEXT,
    VALID_LOSS,
    PretrainingEvaluation,
    PretrainingLoss,
)
from mindspore_thor.run.task import TRAIN, DataConfig, Request, Task
from mindspore_thor.run.vocabulary_folder import opened_text

_POSITIONS = 512  # of the published nets

_OWN = (
    *("sequence_length", "predictions", "masked_share", "short_share", "vocab_size"),
    *("train_files", "valid_files", "epoch_batches", "documents"),
)


@dataclass(frozen=True)
class PretrainingDataConfig(DataConfig):
    """Which samples are trained on, how they are made from text and how they are batched."""

    name: str = option("toy_documents", str, "data set")
    path: str | None = option(
        None, str, "folder of the files; null: made by a grammar", optional=True
    )
    batch_size: int = option(64, int, "samples per update", low=1, most=65536)
    eval_batch_size: int = option(64, int, "samples per evaluation batch", low=1, most=16384)
    sequence_length: int | None = option(
        None,
        int,
        "tokens of a sample; null: the data set's own",
        low=8,
        most=LONGEST,
        optional=True,
    )
    predictions: int | None = option(
        None, int, "most masked words of a sample; null: as the share", low=1, most=LONGEST,
        optional=True,
    )  # fmt: skip
    masked_share: float = option(0.15, float, "share of the masked tokens", above=0.0, most=1.0)
    short_share: float = option(0.1, float, "share of the shorter samples", low=0.0, most=1.0)
    vocab_size: int | None = option(
        None, int, "ids, [MASK] included; null: the data set's own", low=6, most=2**20,
        optional=True,
    )  # fmt: skip
    train_files: str | None = option(
        None, str, "pattern of the training files; null: the data set's own", optional=True
    )
    valid_files: str | None = option(None, str, "the same of the validation files", optional=True)
    epoch_batches: int | None = option(
        None, int, "batches of an epoch; null: all", low=1, most=10**7, optional=True
    )
    documents: int = option(2000, int, "training documents of toy_documents", low=2, most=10**7)
    cache: str | None = option(
        None,
        str,
        "folder where vocabulary and encoded text stay for other runs; null: none",
        optional=True,
    )
    fingerprint: str | None = option(
        None, str, "of the vocabulary, as a run stores it; null: any", optional=True
    )

    @property
    def own(self) -> PretrainingOptions:
        """What the data set itself wants to know."""
        return PretrainingOptions(**{name: getattr(self, name) for name in _OWN})


@dataclass(frozen=True)
class Pretrain(Task):
    """Pairs of sentences: masked words over real masked positions, and the next sentence."""

    name: str = "pretrain"
    metrics: tuple[str, ...] = (MASKED, NEXT)
    lower_is_better: bool = False
    percent: bool = True
    data_config: type[DataConfig] = PretrainingDataConfig
    own_files: tuple[str, ...] = (MODEL_FILE,)
    loss_metric: str = VALID_LOSS

    def open(self, data: PretrainingDataConfig, request: Request) -> PretrainingData:
        """Open one split; of a text, the training split also makes the vocabulary."""
        train = request.split == TRAIN

        def open_split(folder: Path, fingerprint: str | None) -> PretrainingData:
            return create_pretraining(
                data.name,
                data.path,
                train=train,
                batch_size=data.batch_size // request.rank_size if train else data.eval_batch_size,
                folder=folder,
                seed=request.seed,
                options=data.own,
                rank=request.rank,
                rank_size=request.rank_size,
                fingerprint=fingerprint,
            )

        if not pretraining_set(data.name).made:
            opened = opened_text(data, request, open_split)
        elif data.cache is not None:
            opened = open_split(Path(data.cache), None)
        else:
            with tempfile.TemporaryDirectory(prefix="mindspore_thor-records-") as folder:
                opened = open_split(Path(folder), None)
        most = request.options.get("max_length", opened.sequence_length)
        if isinstance(most, int) and most < opened.sequence_length:
            raise UserError(
                f"model.max_length is {most}, but a sample has {opened.sequence_length} tokens: "
                "raise it, or lower data.sequence_length"
            )
        return opened

    def model_options(self, data: PretrainingData) -> dict[str, Any]:
        """Return the number of ids, and how many positions there are at least."""
        return {
            "vocab_size": data.vocab_size,
            "max_length": max(_POSITIONS, data.sequence_length),
        }

    def known_options(self, data: PretrainingDataConfig, beside: Path) -> dict[str, Any]:
        """Return the number of ids and the lengths, as a run's configuration has them."""
        known = pretraining_set(data.name)
        length = data.sequence_length or known.sequence_length
        return {
            "vocab_size": data.vocab_size or known.vocab_size,
            "max_length": max(_POSITIONS, length),
            "length": length,
            "predictions": data.predictions or max(1, math.ceil(data.masked_share * length)),
        }

    def example(self, options: Mapping[str, Any], size: int) -> tuple[np.ndarray, ...]:
        """Return ids, segments, mask and positions, int32 [size, length] thrice, [size, P]."""
        generator = np.random.default_rng(0)
        length = options["length"]
        ids = generator.integers(1, options["vocab_size"], (size, length))
        places = np.broadcast_to(np.arange(length), (size, length))
        used = 3 * length // 4
        count = min(options["predictions"], used - 1)
        positions = np.zeros((size, options["predictions"]), np.int32)
        positions[:, :count] = np.arange(1, count + 1)
        mask, second = places < used, places >= length // 2
        rows = (ids * mask, second & mask, mask, positions)
        return tuple(row.astype(np.int32) for row in rows)

    def describe_inputs(self, data: PretrainingDataConfig) -> str:
        """Say which ids there are."""
        special = (
            "the ids of the files"
            if pretraining_set(data.name).made
            else f"pieces of the vocabulary, {PAD} padding, {BOS} [CLS], {EOS} [SEP], last [MASK]"
        )
        return (
            f"ids ({special}), segments (0, then 1), mask (1 for tokens), and positions of the "
            "words that are asked for, 0 behind them; the outputs are the logits of these words, "
            "and of whether the second sentence follows (0) or not (1)"
        )

    def completed(
        self, config: PretrainingDataConfig, data: PretrainingData
    ) -> PretrainingDataConfig:
        """Return the section with lengths, the number of ids and the vocabulary's fingerprint."""
        return replace(
            config,
            sequence_length=data.sequence_length,
            predictions=data.predictions,
            vocab_size=data.vocab_size,
            fingerprint=data.vocabulary.fingerprint if data.vocabulary is not None else None,
        )

    def loss(self, label_smoothing: float) -> nn.Cell:
        """Return the mean over masked words plus the mean over pairs."""
        return PretrainingLoss(label_smoothing)

    def inputs(self, *batch: Tensor) -> tuple[Tensor, ...]:
        """Return the net's five inputs, and the labels."""
        return batch

    def evaluation(self, net: nn.Cell, data: PretrainingData, config: Any = None) -> Any:
        """Return both accuracies and the loss."""
        return PretrainingEvaluation(net, data)

    def check_model(self, name: str, options: Mapping[str, Any]) -> None:
        """Refuse a model without a vocabulary, or one that translates."""
        if "vocab_size" not in options or "tied" in options:
            raise UserError(f"model {name!r} is no BERT; choose one for task 'pretrain'")

    def notes(self, data: PretrainingData) -> list[str]:
        """Return how many samples there are, and what becomes of those that fill no batch."""
        text = (
            f"{data.samples} samples of {data.sequence_length} tokens, up to {data.predictions} of "
            f"them masked; {data.steps_per_epoch} batches an epoch"
        )
        return [f"{text}; {data.left_out} samples fill no batch" if data.left_out else text]

    def kept(self, data: PretrainingData) -> dict[str, bytes]:
        """Return the vocabulary's file."""
        if data.vocabulary is None:
            return {}
        return {data.vocabulary.file: data.vocabulary.content}
