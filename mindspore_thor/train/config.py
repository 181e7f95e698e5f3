"""The validated configuration of a training run.

A recipe is a YAML file with the sections below; the command line overrides single keys. Sections
that only forward keywords (model, optimizer, the schedules) are checked against the signature of
what they are forwarded to, so that there is no second list of their names.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mindspore import nn

from mindspore_thor.errors import UserError
from mindspore_thor.optim import optimizer_options
from mindspore_thor.optim.schedules import DAMPING_SCHEDULES, SCHEDULES, schedule_options
from mindspore_thor.train.options import checked, nearest, option
from mindspore_thor.train.task import TASKS, Task
from mindspore_thor.train.yaml_files import (
    Settings,
    dotted_leaves,
    dump_yaml,
    parse_value,
    read_settings,
)

COMMAND_LINE = "command line"
FLAGS = ("config_path", "data_path", "output_dir", "resume_ckpt", "checkpoint_file_path")
# What the harness itself gives to the optimizer; a recipe has train.loss_scale for it.
_OPTIMIZER_RESERVED = ("loss_scale",)


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


@dataclass(frozen=True)
class ChoiceConfig:
    """A thing chosen by name, with the keywords that its factory gets.

    Attributes:
        name: The chosen name.
        options: Keywords for the factory.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataConfig:
    """Which images are trained on, and how they are batched."""

    name: str = option("fashion_mnist_sample", str, "data set")
    path: str | None = option(None, str, "folder of the data; null: bundled", optional=True)
    batch_size: int = option(128, int, "images per update", low=1)
    eval_batch_size: int = option(500, int, "images per evaluation batch", low=1)
    augment: bool = option(True, bool, "random crops and flips of the training images")
    num_workers: int = option(2, int, "threads that prepare images", low=1)
    image_size: int | None = option(
        None, int, "side length in pixels; null: the data set's own", low=1, optional=True
    )


@dataclass(frozen=True)
class TrainConfig:
    """Length, randomness, loss, checkpoints and reports of a run."""

    task: str = option("classify", str, "what is learned", choices=tuple(TASKS))
    epochs: int = option(10, int, "passes over the training images", low=1)
    seed: int = option(1, int, "seed of weights, order and augmentation", low=0, below=2**31)
    label_smoothing: float = option(0.0, float, "share of the uniform label", low=0.0, below=1.0)
    accumulate: int = option(1, int, "batches per update", low=1)
    loss_scale: float = option(1.0, float, "factor on the loss in the backward pass", above=0.0)
    eval_every: int = option(1, int, "epochs between evaluations; 0: only at the end", low=0)
    keep_best: bool = option(
        True, bool, "also keep the weights with the best top-1 accuracy or reconstruction error"
    )
    checkpoint_every_epochs: int = option(
        1, int, "epochs between checkpoints; 0: only at the end", low=0
    )
    checkpoint_every_steps: int = option(
        0, int, "updates between checkpoints within an epoch; 0: none", low=0
    )
    keep_checkpoints: int = option(3, int, "newest checkpoints that are kept", low=1)
    log_every: int = option(100, int, "updates between log lines; 0: one line per epoch", low=0)
    max_skipped_updates: int = option(
        20, int, "non-finite updates in a row that stop the training", low=1
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
    def task(self) -> Task:
        """What the run learns."""
        return TASKS[self.train.task]

    def to_dict(self) -> dict[str, Any]:
        """Return the resolved configuration as nested plain values, as a recipe would spell it."""
        damping = self.damping
        return {
            "model": {"name": self.model.name, **self.model.options},
            "data": dataclasses.asdict(self.data),
            "optimizer": {"name": self.optimizer.name, **self.optimizer.options},
            "learning_rate": {"schedule": self.learning_rate.name, **self.learning_rate.options},
            "damping": None if damping is None else {"schedule": damping.name, **damping.options},
            "train": dataclasses.asdict(self.train),
        }

    def to_yaml(self) -> str:
        """Return the resolved configuration as a recipe of its own."""
        return dump_yaml(self.to_dict())


def parse_overrides(arguments: Sequence[str]) -> Settings:
    """Read ``--any.key value`` and ``--any.key=value`` pairs.

    Args:
        arguments: What is left of the command line.

    Returns:
        The settings that they spell.

    Raises:
        UserError: If an argument is not part of such a pair.
    """
    settings = Settings()
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or len(word) < 3:
            raise UserError(f"unexpected argument {word!r}; overrides look like --any.key value")
        flag, has_value, text = word.partition("=")
        if not has_value:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"{flag} needs a value: {flag} VALUE")
            text = rest.pop(0)
        _assign(settings, flag, parse_value(text, flag))
    return settings


def _assign(settings: Settings, flag: str, value: Any) -> None:
    *sections, last = flag[2:].split(".")
    node = settings.tree
    for part in sections:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise UserError(f"{flag} contradicts another override of the same section")
    if isinstance(node.get(last), dict):
        raise UserError(f"{flag} contradicts another override of the same section")
    node[last] = value
    settings.origins[flag[2:]] = COMMAND_LINE


def load_config(path: Path, models: ModelCatalogue, overrides: Settings | None = None) -> Config:
    """Read, merge and validate a recipe.

    Args:
        path: The recipe.
        models: The models to choose from.
        overrides: Settings of the command line, stronger than the recipe.

    Returns:
        The configuration.

    Raises:
        UserError: If the recipe cannot be read, or a key or a value in it is wrong.
    """
    settings = read_settings(path)
    if overrides is not None:
        settings.merge(overrides)
    return _Builder(settings, models, str(path)).build()


class _Builder:
    """Turns a merged tree into a ``Config``; holds what every message needs."""

    def __init__(self, settings: Settings, models: ModelCatalogue, source: str) -> None:
        self.tree = settings.tree
        self.origins = settings.origins
        self.models = models
        self.source = source

    def build(self) -> Config:
        """Validate everything and return the configuration."""
        for section in ("model", "optimizer", "learning_rate"):
            if self.tree.get(section) is None:
                raise UserError(f"{self.source}: section {section!r} is missing; add it")
        model = self._choice("model", "name", tuple(self.models.available_models()))
        optimizer = self._choice("optimizer", "name", None)
        rate = self._choice("learning_rate", "schedule", tuple(SCHEDULES))
        damping = None
        if self.tree.get("damping") is not None:
            damping = self._choice("damping", "schedule", DAMPING_SCHEDULES)
        self._refuse_unknown_keys(model, optimizer, rate, damping)
        if damping is not None:
            self._check_damping(optimizer)
        return Config(
            model=model,
            data=DataConfig(**self._fields("data", DataConfig)),
            optimizer=optimizer,
            learning_rate=rate,
            damping=damping,
            train=TrainConfig(**self._fields("train", TrainConfig)),
        )

    def _check_damping(self, optimizer: ChoiceConfig) -> None:
        if "damping" not in optimizer_options(optimizer.name):
            raise UserError(
                f"{self.source}: optimizer {optimizer.name!r} has no damping; "
                "remove the section 'damping' (--damping null)"
            )
        if "damping" in optimizer.options:
            raise UserError(
                f"{self._origin('optimizer.damping')}: optimizer.damping contradicts the section "
                "'damping'; keep one of them (--damping null removes the section)"
            )

    def _origin(self, key: str) -> str:
        return self.origins.get(key, self.source)

    def _section(self, name: str) -> dict[str, Any]:
        section = self.tree.get(name)
        if section is None:
            return {}
        if not isinstance(section, dict):
            raise UserError(
                f"{self._origin(name)}: {name} is {section!r}; give a section with keys below it"
            )
        return section

    def _choice(self, name: str, chooser: str, valid: tuple[str, ...] | None) -> ChoiceConfig:
        value = self.tree[name]
        if chooser == "schedule" and isinstance(value, (int, float)):
            self.tree[name] = {"schedule": "constant", "value": value}
        options = dict(self._section(name))
        chosen = options.pop(chooser, None)
        key = f"{name}.{chooser}"
        if not isinstance(chosen, str):
            raise UserError(
                f"{self._origin(key)}: {key} is {chosen!r}; give "
                + (f"one of {', '.join(valid)}" if valid else "the name of an optimizer")
            )
        if valid is None:
            try:
                optimizer_options(chosen)
            except UserError as error:
                raise UserError(f"{self._origin(key)}: {key}: {error}") from None
        elif chosen not in valid:
            raise UserError(
                f"{self._origin(key)}: {key} is {chosen!r}; did you mean "
                f"{nearest(chosen, valid)!r}? (one of {', '.join(valid)})"
            )
        return ChoiceConfig(chosen, options)

    def _fields(self, name: str, cls: type) -> dict[str, Any]:
        section = self._section(name)
        return {
            item.name: checked(
                f"{name}.{item.name}",
                section[item.name],
                item.metadata,
                self._origin(f"{name}.{item.name}"),
            )
            for item in dataclasses.fields(cls)
            if item.name in section
        }

    def _refuse_unknown_keys(
        self,
        model: ChoiceConfig,
        optimizer: ChoiceConfig,
        rate: ChoiceConfig,
        damping: ChoiceConfig | None,
    ) -> None:
        valid = {f"data.{item.name}" for item in dataclasses.fields(DataConfig)}
        valid |= {f"train.{item.name}" for item in dataclasses.fields(TrainConfig)}
        valid |= {"model.name", "optimizer.name", "learning_rate.schedule", "damping.schedule"}
        valid |= {f"model.{key}" for key in self.models.model_options(model.name)}
        valid |= {f"optimizer.{key}" for key in optimizer_keys(optimizer.name)}
        valid |= {f"learning_rate.{key}" for key in schedule_options(rate.name)}
        if damping is not None:
            valid |= {f"damping.{key}" for key in schedule_options(damping.name)}
        for key, value in dotted_leaves(self.tree):
            if key in valid or (key == "damping" and value is None):
                continue
            if key in ("data", "train") and value is None:
                continue
            if any(name.startswith(f"{key}.") for name in valid):
                self._section(key)
            dashes = "--" if self._origin(key) == COMMAND_LINE else ""
            raise UserError(
                f"{self._origin(key)}: unknown key '{dashes}{key}'; did you mean "
                f"'{dashes}{nearest(key, valid | (set(FLAGS) if dashes else set()))}'?"
            )
        for key in self.tree:
            if self.tree[key] == {} and not any(name.startswith(f"{key}.") for name in valid):
                raise UserError(
                    f"{self.source}: unknown section {key!r}; did you mean "
                    f"{nearest(key, {name.split('.')[0] for name in valid})!r}?"
                )


def optimizer_keys(name: str) -> list[str]:
    """Return the keys that the section ``optimizer`` may have beside ``name``.

    Args:
        name: The optimizer.

    Raises:
        UserError: If the name is unknown.
    """
    return [key for key in optimizer_options(name) if key not in _OPTIMIZER_RESERVED]
