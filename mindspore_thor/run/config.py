"""The validated configuration of a training run.

A recipe is a YAML file with the sections of :mod:`mindspore_thor.run.sections`; the command line
chooses one of its methods and overrides single keys. Sections that only forward keywords (model,
optimizer, the schedules) are checked against the signature of what they are forwarded to, so that
there is no second list of their names. Why no library does this: docs/decisions.md.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindspore_thor.errors import UserError, quoted, shortened
from mindspore_thor.optim import optimizer_options
from mindspore_thor.optim.intervals import INTERVALS, milestones
from mindspore_thor.optim.keywords import check_keywords
from mindspore_thor.optim.schedules import (
    DAMPING_SCHEDULES,
    SCHEDULES,
    EpochSchedule,
    check_damping,
    create_schedule,
    schedule_options,
)
from mindspore_thor.run.options import checked, nearest
from mindspore_thor.run.overrides import COMMAND_LINE, parse_overrides
from mindspore_thor.run.recipes import read_recipe
from mindspore_thor.run.sections import (
    REST_RATE,
    ChoiceConfig,
    Config,
    ModelCatalogue,
    TrainConfig,
)
from mindspore_thor.run.task import DataConfig
from mindspore_thor.run.tasks import TASKS
from mindspore_thor.run.yaml_files import Settings, dotted_leaves

__all__ = [
    "ChoiceConfig",
    "Config",
    "ModelCatalogue",
    "Recipe",
    "TrainConfig",
    "load_config",
    "load_recipe",
    "optimizer_keys",
    "parse_overrides",
]

FLAGS = (
    *("config_path", "method", "print_config", "data_path"),
    *("output_dir", "resume_ckpt", "checkpoint_file_path"),
)
# What the harness itself gives to the optimizer; a recipe has train.loss_scale for it.
_OPTIMIZER_RESERVED = ("loss_scale",)

RATES = ("peak", "value", "initial", "factor")
"""The option of a schedule that makes all its rates larger or smaller."""


@dataclass(frozen=True)
class Recipe:
    """A recipe, resolved for one of its methods.

    Attributes:
        config: The configuration.
        name: The file's name without its ending, with the method's where one was chosen.
        origins: Dotted key -> where its value was given; defaults have none.
    """

    config: Config
    name: str
    origins: dict[str, str]


def load_recipe(
    path: Path,
    models: ModelCatalogue,
    overrides: Settings | None = None,
    method: str | None = None,
) -> Recipe:
    """Read, merge and validate a recipe for one of its methods.

    Args:
        path: The recipe.
        models: The models to choose from.
        overrides: Settings of the command line, stronger than the recipe.
        method: Which of the recipe's methods; None for ``thor``, or the only one.

    Returns:
        The configuration, with what a reader wants to know of its origin.

    Raises:
        UserError: If the recipe cannot be read, or a key or a value in it is wrong.
    """
    settings, name = read_recipe(path, method)
    if overrides is not None:
        settings.merge(overrides)
    config = _Builder(settings, models, str(path)).build()
    return Recipe(config, name, settings.origins)


def load_config(
    path: Path,
    models: ModelCatalogue,
    overrides: Settings | None = None,
    method: str | None = None,
) -> Config:
    """Return the configuration of :func:`load_recipe` alone; its arguments and errors."""
    return load_recipe(path, models, overrides, method).config


class _Builder:
    """Turns a merged tree into a ``Config``; holds what every message needs."""

    def __init__(self, settings: Settings, models: ModelCatalogue, source: str) -> None:
        self.tree = settings.tree
        self.origins = settings.origins
        self.models = models
        self.source = source

    def build(self) -> Config:
        """Validate everything and return the configuration."""
        self._refuse_dots()
        for section in ("model", "optimizer", "learning_rate"):
            if self.tree.get(section) is None:
                raise UserError(f"{self.source}: section {section!r} is missing; add it")
        model = self._choice("model", "name", tuple(self.models.available_models()))
        optimizer = self._choice("optimizer", "name", None)
        rate = self._choice("learning_rate", "schedule", tuple(SCHEDULES))
        damping = None
        if self.tree.get("damping") is not None:
            damping = self._choice("damping", "schedule", DAMPING_SCHEDULES)
        rest = self._rest_rate(optimizer)
        self._refuse_unknown_keys(model, optimizer, rate, damping, rest)
        data_config = self._data_config()
        data = data_config(**self._fields("data", data_config))
        train = TrainConfig(**self._fields("train", TrainConfig))
        with self._named("optimizer", optimizer):
            _check_options(optimizer)
        with self._named("learning_rate", rate):
            _schedule(rate, train)
        if rest is not None:
            with self._named(f"optimizer.{REST_RATE}", rest):
                _schedule(rest, train)
        if damping is not None:
            self._check_damping(optimizer)
            with self._named("damping", damping):
                check_damping(_schedule(damping, train), train.epochs)
        return Config(model, data, optimizer, rate, damping, train)

    def _refuse_dots(self) -> None:
        # Those of the command line have been taken apart by now; this one is in a file.
        for name in self.tree:
            if "." in name:
                section, _, key = name.partition(".")
                raise UserError(
                    f"{self._origin(name)}: key {quoted(name)} has a dot; write a section "
                    f"'{shortened(section, 40)}:' with '{shortened(key, 40)}:' below it"
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

    @contextmanager
    def _named(self, section: str, choice: ChoiceConfig) -> Iterator[None]:
        """Say of an error where the value that it names was given."""
        try:
            yield
        except UserError as error:
            message = str(error)
            words = set(re.findall(r"\w+", message))
            key = next((key for key in choice.options if key in words), "")
            raise UserError(
                f"{self._origin(f'{section}.{key}')}: section {section!r}: {message}"
            ) from None

    def _origin(self, key: str) -> str:
        return self.origins.get(key, self.source)

    def _section(self, name: str) -> dict[str, Any]:
        section = self.tree.get(name)
        if section is None:
            return {}
        if not isinstance(section, dict):
            raise UserError(
                f"{self._origin(name)}: {name} is {quoted(section)}; give a section with keys "
                "below it"
            )
        return section

    def _choice(self, name: str, chooser: str, valid: tuple[str, ...] | None) -> ChoiceConfig:
        value = self.tree[name]
        if chooser == "schedule" and isinstance(value, (int, float)):
            self.tree[name] = {"schedule": "constant", "value": value}
            for key in ("schedule", "value"):
                self.origins[f"{name}.{key}"] = self._origin(name)
        return self._chosen(name, self._section(name), chooser, valid)

    def _data_config(self) -> type[DataConfig]:
        """The task says which keys its data has; one that does not exist is refused later."""
        train = self.tree.get("train")
        name = train.get("task") if isinstance(train, dict) else None
        known = isinstance(name, str) and name in TASKS
        return TASKS[str(name) if known else TrainConfig().task].data_config

    def _rest_rate(self, optimizer: ChoiceConfig) -> ChoiceConfig | None:
        """Return the schedule that ``optimizer.rest_learning_rate`` is; None where it is none."""
        value = optimizer.options.get(REST_RATE)
        if not isinstance(value, dict) or REST_RATE not in optimizer_keys(optimizer.name):
            return None
        return self._chosen(f"optimizer.{REST_RATE}", value, "schedule", tuple(SCHEDULES))

    def _chosen(
        self, name: str, section: dict[str, Any], chooser: str, valid: tuple[str, ...] | None
    ) -> ChoiceConfig:
        options = dict(section)
        chosen = options.pop(chooser, None)
        key = f"{name}.{chooser}"
        if not isinstance(chosen, str):
            raise UserError(
                f"{self._origin(key)}: {key} is {quoted(chosen)}; give "
                + (f"one of {', '.join(valid)}" if valid else "the name of an optimizer")
            )
        if valid is None:
            try:
                optimizer_options(chosen)
            except UserError as error:
                raise UserError(f"{self._origin(key)}: {key}: {error}") from None
        elif chosen not in valid:
            raise UserError(
                f"{self._origin(key)}: {key} is {quoted(chosen)}; did you mean "
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
        rest: ChoiceConfig | None,
    ) -> None:
        valid = {f"data.{item.name}" for item in dataclasses.fields(self._data_config())}
        valid |= {f"train.{item.name}" for item in dataclasses.fields(TrainConfig)}
        valid |= {"model.name", "optimizer.name", "learning_rate.schedule", "damping.schedule"}
        valid |= {f"model.{key}" for key in self.models.model_options(model.name)}
        valid |= {f"optimizer.{key}" for key in optimizer_keys(optimizer.name)}
        valid |= {f"learning_rate.{key}" for key in schedule_options(rate.name)}
        if damping is not None:
            valid |= {f"damping.{key}" for key in schedule_options(damping.name)}
        if rest is not None:
            keys = ("schedule", *schedule_options(rest.name))
            valid |= {f"optimizer.{REST_RATE}.{key}" for key in keys}
        for key, value in dotted_leaves(self.tree):
            if key in valid or (key == "damping" and value is None):
                continue
            if key in ("data", "train") and value in (None, {}):
                continue
            if any(name.startswith(f"{key}.") for name in valid):
                self._section(key)
            dashes = "--" if self._origin(key) == COMMAND_LINE else ""
            near = nearest(key, valid | (set(FLAGS) if dashes else set()))
            if key in ("optimizer.lr", "optimizer.learning_rate"):
                near = next(
                    (f"learning_rate.{of}" for of in RATES if f"learning_rate.{of}" in valid),
                    near,
                )
            raise UserError(
                f"{self._origin(key)}: unknown key '{dashes}{shortened(key, 60)}'; did you mean "
                f"'{dashes}{near}'?"
            )


def _check_options(optimizer: ChoiceConfig) -> None:
    """Check what can be checked without a net, so that evaluation refuses it, too."""
    check_keywords(optimizer.name, optimizer.options, optimizer_options(optimizer.name))
    for key in INTERVALS:
        if key in optimizer.options:
            milestones(key, optimizer.options[key])


def _schedule(choice: ChoiceConfig, train: TrainConfig) -> EpochSchedule:
    """The schedule as it will be, but for the number of steps in an epoch."""
    return create_schedule(choice.name, 1, train.epochs, **choice.options)


def optimizer_keys(name: str) -> list[str]:
    """Return the keys that the section ``optimizer`` may have beside ``name``.

    Args:
        name: The optimizer.

    Raises:
        UserError: If the name is unknown.
    """
    return [key for key in optimizer_options(name) if key not in _OPTIMIZER_RESERVED]
