"""The compiled graphs of a training step, by name, and the list of those that Ascend must take."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from mindspore import Tensor, nn, ops

from benchmarks import step_time
from benchmarks.step_time import make_optimizer, optimizer_of
from mindspore_thor import optim
from mindspore_thor.errors import UserError
from mindspore_thor.parallel.sync_norm import synchronise_norms
from mindspore_thor.run.pretraining import PretrainingLoss
from mindspore_thor.step.token_loss import TokenMeanLoss
from mindspore_thor.step.train_step import TrainStep
from models import create_model

MARK = "[graph]"
"""How the lines begin that compiling writes among MindSpore's log."""

KINDS = ("plain", "factor", "update", "inverse", "retry", "whole", "step")
"""What a step may consist of: the ordinary pass; that which collects statistics; the update behind
either; the inverses; those that failed once more; all of it in one graph (sinking);
the only graph that a first-order method has."""

CONTROL = "host"
"""A graph that needs the host: what finds back-offs must find one there."""

BASELINE = "sgd"
METHODS = ("thor", "fngd", "lngd")
LEVELS = ("O0", "O1")
RANKS = (1, 8)


class Case(NamedTuple):
    """One graph: a model, a method of the step-time benchmark, and one of :data:`KINDS`."""

    model: str
    method: str
    kind: str

    def __str__(self) -> str:
        return ":".join(self)


class Setting(NamedTuple):
    """How a process compiles: jit level and number of ranks."""

    level: str
    ranks: int

    def __str__(self) -> str:
        return f"{self.level}, {self.ranks} rank{'s' if self.ranks > 1 else ''}"


SYNC = "_sync"
"""How a model is called whose BatchNorm sees the samples of all ranks."""

SHAPES = {"resnet20": (32, 32), "resnet50": (4, 64)}
"""(samples, pixels) of the batch that a model's graphs are compiled for."""

SENTENCES = {"transformer_tiny": (4, 16), "transformer_base": (4, 16)}
"""(sentence pairs, tokens of each side) for the models that translate."""

SAMPLES = {"bert_tiny": (4, 32, 5), "bert_base": (4, 32, 5), "bert_large": (4, 32, 5)}
"""(samples, tokens, masked words of each) for the models that are pre-trained."""

WEIGHT_DECAY = 5e-4
"""Without decay there would be less to fuse than in a real training."""


def kinds_of(method: str) -> tuple[str, ...]:
    """The graphs that a method's steps consist of, without those for failures and for sinking."""
    name = step_time.METHODS.get(method, (method, {}))[0]
    made_by = optim.METHODS.get(name)
    if inspect.isfunction(made_by):
        return ("step",)
    # FNGD solves within its backward pass.
    without = {
        "factor": not getattr(made_by, "collects", True),
        "inverse": not getattr(made_by, "derives", True) or name == "fngd",
    }
    return tuple(kind for kind in KINDS[:4] if not without.get(kind, False))


def required() -> tuple[Case, ...]:
    """All graphs that must compile for Ascend, at both levels and both numbers of ranks.

    The baseline's come with them: what the others cost is told as a ratio to them.
    """
    named = [("resnet20", method) for method in (BASELINE, *METHODS)]
    named += [("resnet50", method) for method in (BASELINE, "thor")]
    named += [("transformer_base", method) for method in (BASELINE, *METHODS)]
    return tuple(Case(*pair, kind) for pair in named for kind in kinds_of(pair[1]))


def parse_cases(texts: Iterable[str]) -> tuple[Case, ...]:
    """Cases from ``model:method:kind``, or ``model:method`` for all that its steps need.

    Raises:
        UserError: for anything else.
    """
    found: list[Case] = []
    for text in texts:
        model, method, kind = (*text.split(":"), "", "")[:3]
        kinds = kinds_of(method) if not kind else (kind,)
        if text.count(":") not in (1, 2) or not set(kinds) <= {*KINDS, CONTROL}:
            raise UserError(f"case {text!r}: give model:method or model:method:kind, {KINDS}")
        found += [Case(model, method, one) for one in kinds]
    return tuple(found)


class OnTheHost(nn.Cell):
    """The control: a Cholesky decomposition, for which Ascend has no kernel."""

    def construct(self, matrix: Tensor) -> Tensor:
        """[n, n] -> its lower factor."""
        return ops.cholesky(matrix)


class Graphs:
    """The cells of a training step, and what they are called with.

    Args:
        step: of any method.
        batch: its arguments.
    """

    def __init__(self, step: TrainStep, batch: tuple[Tensor, ...]) -> None:
        self.step, self.batch = step, batch
        self.optimizer = step.optimizer
        if step.second_order:
            self.optimizer.expect_batch(batch[0].shape[0])

    @classmethod
    def of(cls, model: str, method: str) -> Graphs:
        """Those of a benchmarked method on a benchmarked model."""
        # FNGD's coefficients are few here: their store does not change the graph.
        options: dict[str, Any] = {"weight_decay": WEIGHT_DECAY, "steps_per_epoch": 4}
        if model in SENTENCES:
            return cls.of_sentences(model, method, options)
        if model in SAMPLES:
            return cls.of_samples(model, method, options)
        plain = model[: -len(SYNC)] if model.endswith(SYNC) else model
        if plain not in SHAPES:
            known = ", ".join((*SHAPES, *SENTENCES, *SAMPLES))
            raise UserError(f"unknown model {model!r}: use {known}")
        batch, pixels = SHAPES[plain]
        net, optimizer = make_optimizer(method, plain, **options)
        if plain != model:
            synchronise_norms(net)
        loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
        rng = np.random.default_rng(0)
        images = rng.standard_normal((batch, 3, pixels, pixels)).astype(np.float32)
        labels = rng.integers(0, 10, batch).astype(np.int32)
        return cls(TrainStep(net, loss, optimizer), (Tensor(images), Tensor(labels)))

    @classmethod
    def of_sentences(cls, model: str, method: str, options: dict[str, Any]) -> Graphs:
        """Those of a Transformer, as task "translate" trains it, tables and norms by AdamW."""
        pairs, length = SENTENCES[model]
        net = create_model(model)
        optimizer = optimizer_of(method, net, rest="adamw", **options)
        rng = np.random.default_rng(0)
        source, target = rng.integers(4, net.vocab_size, (2, pairs, length + 1)).astype(np.int32)
        source[0, -3:] = target[0, -3:] = 0  # padding
        inputs = (source[:, :-1], target[:, :-1], np.arange(pairs, dtype=np.int32), target[:, 1:])
        step = TrainStep(net, TokenMeanLoss(label_smoothing=0.1), optimizer)
        return cls(step, tuple(map(Tensor, inputs)))

    @classmethod
    def of_samples(cls, model: str, method: str, options: dict[str, Any]) -> Graphs:
        """Those of a BERT, as task "pretrain" trains it, the words' table by AdamW."""
        samples, length, asked = SAMPLES[model]
        net = create_model(model)
        optimizer = optimizer_of(method, net, rest="adamw", **options)
        rng = np.random.default_rng(0)
        ids = rng.integers(4, net.vocab_size, (samples, length))
        places = np.broadcast_to(np.arange(length), ids.shape)
        mask = places < length - 3  # padding
        positions = places[:, 1 : 1 + asked]
        labels = np.concatenate((ids[:, 1 : 1 + asked], ids[:, :1] % 2), 1)
        second = mask & (places >= length // 2)
        inputs = (ids * mask, second, mask, positions, np.arange(samples), labels)
        step = TrainStep(net, PretrainingLoss(), optimizer)
        return cls(step, tuple(Tensor(column.astype(np.int32)) for column in inputs))

    def cell(self, kind: str) -> tuple[nn.Cell, tuple[Any, ...]]:
        """The cell of one of :data:`KINDS`, or of :data:`CONTROL`, and its arguments."""
        step = self.step
        if kind == CONTROL:
            return OnTheHost(), (Tensor(np.eye(4, dtype=np.float32)),)
        if kind == "whole" or not step.second_order:
            return step.whole, self.batch
        if kind == "plain":
            return step.plain, self.batch
        if kind == "factor":
            return (step.measure if step.measures_first else step.capture), self.batch
        if kind == "inverse":
            return step.renew, ()
        if kind == "retry":
            return step.again, ()
        gradients = [Tensor(np.zeros(p.shape, np.float32)) for p in self.optimizer.weights]
        return step.apply_update, (Tensor(True), *gradients)
