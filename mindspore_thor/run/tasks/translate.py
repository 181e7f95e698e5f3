"""Sentences of one language to sentences of another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor, nn

from mindspore_thor.data.text.factory import create_text, text_set
from mindspore_thor.data.text.options import LONGEST, TextOptions
from mindspore_thor.data.text.pipeline import TextData
from mindspore_thor.data.text.vocabulary import BOS, EOS, PAD, open_vocabulary
from mindspore_thor.errors import UserError
from mindspore_thor.run.options import option
from mindspore_thor.run.task import TRAIN, DataConfig, Request, Task
from mindspore_thor.run.translation import BLEU, CHRF, VALID_LOSS, TranslationEvaluation, padding_to
from mindspore_thor.run.vocabulary_folder import VOCABULARY_FILES, opened_text
from mindspore_thor.step.inputs import CaptureInputs
from mindspore_thor.step.token_loss import TokenMeanLoss

_HYPOTHESES = "hypotheses.{}.txt"


@dataclass(frozen=True)
class TextDataConfig(DataConfig):
    """Which sentences are trained on, how they are batched and how translations are searched."""

    name: str = option("toy_translation", str, "data set")
    path: str | None = option(
        None, str, "folder of the text; null: made by a grammar", optional=True
    )
    batch_size: int = option(64, int, "sentence pairs per update", low=1, most=65536)
    eval_batch_size: int = option(100, int, "sentences per evaluation batch", low=1, most=16384)
    source_language: str = option("en", str, "suffix of the files that are translated from")
    target_language: str = option("de", str, "suffix of the files that are translated to")
    vocab_size: int | None = option(
        None,
        int,
        "pieces of the joint vocabulary; null: the data set's own",
        low=5,
        most=2**20,
        optional=True,
    )
    buckets: tuple[int, ...] | None = option(
        None,
        tuple,
        "lengths that sentences are padded to; null: the data set's own",
        low=2,
        most=LONGEST,
        optional=True,
    )
    train_stem: str | None = option(
        None, str, "training files without language; null: the data set's own", optional=True
    )
    valid_stem: str | None = option(None, str, "the same of the validation files", optional=True)
    test_stem: str | None = option(None, str, "the same of the test files", optional=True)
    sentences: int = option(
        10_000, int, "training pairs of toy_translation in an epoch", low=1, most=10**7
    )
    limit: int = option(0, int, "training pairs that are used; 0: all", low=0, most=10**8)
    cache: str | None = option(
        None,
        str,
        "folder where vocabulary and encoded text stay for other runs; null: none",
        optional=True,
    )
    fingerprint: str | None = option(
        None, str, "of the vocabulary, as a run stores it; null: any", optional=True
    )
    beam: int = option(4, int, "beams of the search at the end", low=1, most=64)
    length_penalty: float = option(0.6, float, "exponent of the length penalty", low=0.0, most=10.0)
    search_length: int = option(64, int, "most tokens of a translation", low=1, most=LONGEST)

    @property
    def text(self) -> TextOptions:
        """What the data set itself wants to know."""
        languages = ("source_language", "target_language")
        sizes = ("vocab_size", "buckets", "sentences", "limit")
        stems = ("train_stem", "valid_stem", "test_stem")
        return TextOptions(**{name: getattr(self, name) for name in (*languages, *sizes, *stems)})


@dataclass(frozen=True)
class Translate(Task):
    """Sentence pairs: label-smoothed loss over real tokens, BLEU and chrF."""

    name: str = "translate"
    metrics: tuple[str, ...] = (BLEU, CHRF)
    lower_is_better: bool = False
    percent: bool = False
    data_config: type[DataConfig] = TextDataConfig
    own_files: tuple[str, ...] = (
        *VOCABULARY_FILES,
        *(_HYPOTHESES.format(split) for split in ("valid", "test")),
    )
    loss_metric: str = VALID_LOSS

    def tested(self, data: TextDataConfig) -> bool:
        """Return True: there are a validation and a test split."""
        return True

    def open(self, data: TextDataConfig, request: Request) -> TextData:
        """Open one split; the training split also makes the vocabulary, where there is none."""
        train = request.split == TRAIN

        def open_split(folder: Path, fingerprint: str | None) -> TextData:
            return create_text(
                data.name,
                data.path,
                split=request.split,
                batch_size=data.batch_size // request.rank_size if train else data.eval_batch_size,
                vocabulary_folder=folder,
                seed=request.seed,
                options=data.text,
                rank=request.rank,
                rank_size=request.rank_size,
                fingerprint=fingerprint,
            )

        return opened_text(data, request, open_split)

    def model_options(self, data: TextData) -> dict[str, Any]:
        """Return the size of the vocabulary."""
        return {"vocab_size": data.vocabulary.size}

    def known_options(self, data: TextDataConfig, beside: Path) -> dict[str, Any]:
        """Return the size of the vocabulary beside the checkpoint, and the longest bucket."""
        known = text_set(data.name)
        vocabulary = open_vocabulary(beside, data.fingerprint)
        pieces = data.vocab_size or known.vocab_size
        return {
            "vocab_size": pieces if vocabulary is None else vocabulary.size,
            "length": (data.buckets or known.buckets)[-1],
        }

    def example(self, options: Mapping[str, Any], size: int) -> tuple[np.ndarray, ...]:
        """Return source and target, int32 [size, length] each: without search, as in training."""
        generator = np.random.default_rng(0)
        length, pieces = options["length"], options["vocab_size"]
        source, target = generator.integers(EOS, pieces, (2, size, length)).astype(np.int32)
        source[:, 3 * length // 4 :] = PAD
        target[:, 0] = BOS
        return source, target

    def describe_inputs(self, data: TextDataConfig) -> str:
        """Say which ids there are."""
        return (
            f"pieces of the vocabulary, {PAD} behind them, {EOS} at a source's end, {BOS} before a "
            "target; the output is the logits of each next piece: the search is not in the file"
        )

    def completed(self, config: TextDataConfig, data: TextData) -> TextDataConfig:
        """Return the section with the vocabulary's size and fingerprint, and the buckets."""
        return replace(
            config,
            vocab_size=data.vocabulary.size,
            buckets=tuple(data.buckets),
            fingerprint=data.vocabulary.fingerprint,
        )

    def loss(self, label_smoothing: float) -> nn.Cell:
        """Return the mean over the target's real tokens."""
        return TokenMeanLoss(label_smoothing=label_smoothing)

    def inputs(self, *batch: Tensor) -> tuple[Tensor, ...]:
        """Return source, the target without its end, the noise of the dropout, and the labels."""
        source, target, noise = batch
        ids = target.asnumpy()
        return source, Tensor(ids[:, :-1]), noise, Tensor(ids[:, 1:])

    def capture_inputs(self, data: TextData) -> CaptureInputs | None:
        """Return what pads to every other bucket, the longest among them: half of the graphs."""
        return padding_to(data.buckets[::-1][::2][::-1]) if len(data.buckets) > 1 else None

    def evaluation(self, net: nn.Cell, data: TextData, config: TextDataConfig) -> Any:
        """Return greedy BLEU, chrF and the loss per token."""
        return TranslationEvaluation(
            net, data, _HYPOTHESES.format(data.split), search_length=config.search_length
        )

    def final(self, net: nn.Cell, data: TextData, config: TextDataConfig) -> Any:
        """Return BLEU and chrF with beam search."""
        return TranslationEvaluation(
            net,
            data,
            _HYPOTHESES.format(data.split),
            search_length=config.search_length,
            beam=config.beam,
            length_penalty=config.length_penalty,
        )

    def check_model(self, name: str, options: Mapping[str, Any]) -> None:
        """Refuse a model without a vocabulary."""
        if "vocab_size" not in options:
            raise UserError(
                f"model {name!r} has no vocabulary; choose a Transformer for task 'translate'"
            )

    def notes(self, data: TextData) -> list[str]:
        """Return how many pairs are trained on, and what became of the others."""
        dropped, longest = data.dropped, data.buckets[-1]
        text = f"{data.size} pairs an epoch in {data.steps_per_epoch} batches"
        reasons = (
            (dropped.too_long, f"longer than {longest} pieces (data.buckets)"),
            (dropped.blank, "with a blank side"),
            (dropped.beyond, "beyond data.limit"),
            (dropped.incomplete, "more fill no batch"),
        )
        left = [f"{count} {reason}" for count, reason in reasons if count]
        return [f"{text}; left out: {', '.join(left)}" if left else text]

    def kept(self, data: TextData) -> dict[str, bytes]:
        """Return the vocabulary's file."""
        return {data.vocabulary.file: data.vocabulary.content}
