"""The sections of a configuration: their keys, with types, ranges and defaults."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mindspore import nn

from mindspore_thor.optim.checks import MAX_LOSS_SCALE, MAX_STEPS
from mindspore_thor.optim.schedule_base import MAX_EPOCHS
from mindspore_thor.run.options import option
from mindspore_thor.run.task import DataConfig, Task
from mindspore_thor.run.tasks import TASKS
from mindspore_thor.run.yaml_text import dump_yaml


class ModelCatalogue(Protocol):
    """The part of the ``models`` package that a run needs."""

    def create_model(self, name: str, **options: Any) -> nn.Cell:
        """Build a model by name."""
        ...

    def available_models(self) -> Sequence[str]:
        """Return the names that ``create_model`` knows."""
        ...

    def model_options(self, name: str) -> Mapping[str, inspect.Parameter]:
        """Return the keywords of one model's factory."""
        ...

    def shipped_recipe(self, path: Path) -> Path:
        """Return the recipe that a path or a name stands for."""
        ...


@dataclass(frozen=True)
class ChoiceConfig:
    """A thing chosen by name, with the keywords that its factory gets.

    Attributes:
        name: The chosen name.
        options: Keywords for the factory.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)


REST_RATE = "rest_learning_rate"
"""The option of an optimizer that may be a schedule, as the section ``learning_rate``."""


@dataclass(frozen=True)
class TrainConfig:
    """Length, randomness, loss, checkpoints and reports of a run."""

    task: str = option("classify", str, "what is learned", choices=tuple(TASKS))
    epochs: int = option(10, int, "passes over the training images", low=1, most=MAX_EPOCHS)
    seed: int = option(1, int, "seed of weights, order and augmentation", low=0, below=2**31)
    label_smoothing: float = option(0.0, float, "share of the uniform label", low=0.0, below=1.0)
    accumulate: int = option(1, int, "batches per update", low=1, most=65536)
    sync_batch_norm: bool = option(
        False, bool, "BatchNorm over the samples of all ranks (Ascend only)"
    )
    loss_scale: float = option(
        1.0, float, "factor on the loss in the backward pass", above=0.0, most=MAX_LOSS_SCALE
    )
    dynamic_loss_scale: bool = option(
        False, bool, "let the factor on the loss find its own size, for nets in float16"
    )
    eval_every: int = option(
        1, int, "epochs between evaluations; 0: only at the end", low=0, most=MAX_EPOCHS
    )
    test: bool = option(
        True, bool, "measure a finished run on the test split, where another one was looked at"
    )
    keep_best: bool = option(
        True, bool, "also keep the weights with the best value of the task's first metric"
    )
    checkpoint_every_epochs: int = option(
        1, int, "epochs between checkpoints; 0: only at the end", low=0, most=MAX_EPOCHS
    )
    checkpoint_every_steps: int = option(
        0, int, "updates between checkpoints within an epoch; 0: none", low=0, most=MAX_STEPS
    )
    keep_checkpoints: int = option(
        3, int, "newest checkpoints that are kept", low=1, most=MAX_EPOCHS
    )
    log_every: int = option(
        100, int, "updates between log lines; 0: one line per epoch", low=0, most=MAX_STEPS
    )
    layer_table: bool = option(
        False, bool, "say of every layer what moves it, not only of every type of layer"
    )
    max_skipped_updates: int = option(
        20, int, "non-finite updates in a row that stop the training", low=1, most=MAX_STEPS
    )
    compile_cache: bool | str = option(
        True, str, "keep compiled graphs: true: in the user's cache; false; a folder", switch=True
    )
    compile_cache_limit: int = option(
        2000, int, "megabytes of kept graphs; those not used for longest go", low=1, most=10**6
    )
    device_target: str | None = option(
        None, str, "null: MindSpore's default", choices=("CPU", "GPU", "Ascend"), optional=True
    )


@dataclass(frozen=True)
class Config:
    """A whole run, validated.

    Attributes:
        model: Name of the model and its factory's keywords.
        data: The data set.
        optimizer: Name of the optimizer and its keywords.
        learning_rate: The schedule and its arguments.
        damping: The damping schedule, or None for the optimizer's own ``damping`` number.
        train: The loop.
    """

    model: ChoiceConfig
    data: DataConfig
    optimizer: ChoiceConfig
    learning_rate: ChoiceConfig
    damping: ChoiceConfig | None
    train: TrainConfig

    @property
    def rest_learning_rate(self) -> ChoiceConfig | None:
        """The schedule of the parameters that the optimizer leaves to AdamW, where it is one."""
        value = self.optimizer.options.get(REST_RATE)
        if not isinstance(value, dict):
            return None
        options = dict(value)
        return ChoiceConfig(options.pop("schedule"), options)

    @property
    def task(self) -> Task:
        """What the run learns."""
        return TASKS[self.train.task]

    def to_dict(self) -> dict[str, Any]:
        """Return the resolved configuration as nested plain values, as a recipe would spell it."""
        damping = self.damping
        return {
            "model": {"name": self.model.name, **self.model.options},
            "data": _plain(self.data),
            "optimizer": {"name": self.optimizer.name, **self.optimizer.options},
            "learning_rate": {"schedule": self.learning_rate.name, **self.learning_rate.options},
            "damping": None if damping is None else {"schedule": damping.name, **damping.options},
            "train": _plain(self.train),
        }

    def to_yaml(self) -> str:
        """Return the resolved configuration as a recipe of its own."""
        return dump_yaml(self.to_dict())


def _plain(section: Any) -> dict[str, Any]:
    """Return a section as YAML and JSON know it: lists, no tuples."""
    values = dataclasses.asdict(section)
    return {key: list(x) if isinstance(x, tuple) else x for key, x in values.items()}
