"""From a validated configuration to data, net, optimizer and train step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn
from mindspore import dtype as mstype

from mindspore_thor.cache.compile_cache import CompileCache, open_cache
from mindspore_thor.errors import UserError
from mindspore_thor.optim import create_optimizer, optimizer_options
from mindspore_thor.optim.base import SecondOrder
from mindspore_thor.optim.checks import MAX_STEPS
from mindspore_thor.optim.schedules import EpochSchedule, create_schedule
from mindspore_thor.parallel.communication import world
from mindspore_thor.parallel.setup import join_ranks
from mindspore_thor.parallel.sync_norm import synchronise_norms
from mindspore_thor.run.config import ChoiceConfig, Config, ModelCatalogue
from mindspore_thor.run.sections import REST_RATE
from mindspore_thor.run.task import TEST, TRAIN, VALID, Batches, Request
from mindspore_thor.runtime import prepare_target
from mindspore_thor.step.loss_scale import DynamicLossScale
from mindspore_thor.step.train_step import TrainStep

RARELY = 5
"""Where statistics are collected so seldom, batches are padded further for it, see
``Task.capture_inputs``: with sentences of usual lengths that costs less than a tenth of a step."""


@dataclass
class Session:
    """Everything that one training run works with.

    Attributes:
        config: The configuration, with what the data decided filled in.
        train_data: The training split.
        eval_data: What is looked at during the training.
        test_data: What is looked at once, at its end; None where there is no such thing.
        net: The net; the optimizer may have converted it.
        weight_names: Parameter names of the plain, unconverted net.
        optimizer: The optimizer.
        learning_rate: Its learning-rate schedule.
        step: The train step.
    """

    config: Config
    train_data: Batches
    eval_data: Batches
    test_data: Batches | None
    net: nn.Cell
    weight_names: tuple[str, ...]
    optimizer: nn.Cell
    learning_rate: EpochSchedule
    step: TrainStep

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of the update that a batch belongs to.

        Args:
            step: The batch's number in the whole run, from 0.
        """
        update = step // self.config.train.accumulate
        return float(self.learning_rate(Tensor(update, mstype.int32)).asnumpy())


def prepare_device(config: Config) -> None:
    """Set graph mode, the device and the seed, and join the other ranks if there are any.

    Args:
        config: The configuration.
    """
    ms.set_context(mode=ms.GRAPH_MODE)
    prepare_target(config.train.device_target)
    join_ranks()
    ms.set_seed(config.train.seed)


def open_data(config: Config, split: str, beside: Path | None = None) -> Any:
    """Open one split of the configured data set.

    Args:
        config: The configuration.
        split: ``TRAIN``, ``VALID`` or ``TEST``.
        beside: The folder of the checkpoint that is continued or evaluated, or None.

    Returns:
        This rank's share of the batches. In training that is a part of each batch of the whole job,
        so that the ranks together see what a single process would see.

    Raises:
        UserError: If the data is missing, empty or does not fit, or if the ranks cannot share a
            batch equally.
    """
    batch = config.data.batch_size
    rank, size = world()
    if split == TRAIN and batch % size:
        raise UserError(
            f"data.batch_size is {batch}, which {size} processes cannot share equally; "
            f"make it a multiple of {size}"
        )
    request = Request(split, config.train.seed, rank, size, config.model.options, beside)
    return config.task.open(config.data, request)


def fit_to_data(config: Config, data: Any, models: ModelCatalogue) -> Config:
    """Fill in what the configuration leaves open and the data decides.

    Args:
        config: The configuration.
        data: Any split, opened.
        models: The models, for the options that this one has.

    Returns:
        The configuration with, for instance, ``num_classes``, ``in_channels`` and ``image_size`` of
        the data, as far as the model has these options and the recipe does not give them.

    Raises:
        UserError: If the model is not made for the task.
    """
    config = fit_model(config, config.task.model_options(data), models)
    return dataclasses.replace(config, data=config.task.completed(config.data, data))


def fit_model(config: Config, derived: Mapping[str, Any], models: ModelCatalogue) -> Config:
    """Fill in the options of the model that the data decides.

    Args:
        config: The configuration.
        derived: Options by name, also such as this model does not have.
        models: The models, for the options that this one has.

    Returns:
        The configuration; an option that it gives itself stays.

    Raises:
        UserError: If the model is not made for the task.
    """
    known = models.model_options(config.model.name)
    config.task.check_model(config.model.name, known)
    options = {key: value for key, value in derived.items() if key in known}
    options.update(config.model.options)
    return dataclasses.replace(config, model=ChoiceConfig(config.model.name, options))


def build_session(config: Config, models: ModelCatalogue, beside: Path | None = None) -> Session:
    """Build everything for a training run.

    Args:
        config: The configuration.
        models: The models to choose from.
        beside: The folder of the checkpoint that is continued, or None.

    Returns:
        The session, with freshly initialised weights.

    Raises:
        UserError: If the data, the model's options or the optimizer's do not fit.
    """
    prepare_device(config)
    train_data = open_data(config, TRAIN, beside)
    config = fit_to_data(config, train_data, models)
    eval_data = open_data(config, VALID, beside)
    tested = config.train.test and config.task.tested(config.data)
    test_data = open_data(config, TEST, beside) if tested else None
    net = models.create_model(config.model.name, **config.model.options)
    if config.train.sync_batch_norm:
        synchronise_norms(net)
    # Before the optimizer may convert the net: these are the names a checkpoint is known by.
    weight_names = tuple(net.parameters_dict())
    steps = _updates_per_epoch(config, train_data.steps_per_epoch)
    optimizer, rate = build_optimizer(config, net, steps)
    loss = config.task.loss(config.train.label_smoothing)
    cache = cache_of(config)
    scale = DynamicLossScale() if config.train.dynamic_loss_scale else None
    rarely = isinstance(optimizer, SecondOrder) and optimizer.factor_interval.least >= RARELY
    taken = config.task.capture_inputs(train_data) if rarely else None
    step = TrainStep(net, loss, optimizer, config.train.accumulate, cache, scale, taken)
    step.set_train()
    return Session(
        config, train_data, eval_data, test_data, net, weight_names, optimizer, rate, step
    )


def cache_of(config: Config) -> CompileCache:
    """Return where a run's graphs are kept."""
    cache = open_cache(config.train.compile_cache, config.train.compile_cache_limit)
    # One that keeps nothing says what is being compiled all the same.
    return cache or CompileCache(None, off="train.compile_cache is false")


def _updates_per_epoch(config: Config, batches: int) -> int:
    count = config.train.accumulate
    if batches % count:
        divisors = [d for d in range(1, batches + 1) if batches % d == 0]
        nearest = sorted(sorted(divisors, key=lambda d: abs(d - count))[:8])
        raise UserError(
            f"train.accumulate is {count}, which does not divide the {batches} batches of an "
            f"epoch: use one of {', '.join(map(str, nearest))}, or another data.batch_size"
        )
    updates = batches // count
    if updates * config.train.epochs > MAX_STEPS:
        raise UserError(
            f"train.epochs is {config.train.epochs}, which makes more than {MAX_STEPS} updates of "
            f"{updates} an epoch; give at most {MAX_STEPS // updates}"
        )
    return updates


def build_optimizer(
    config: Config, net: nn.Cell, steps_per_epoch: int
) -> tuple[nn.Optimizer, EpochSchedule]:
    """Build the configured optimizer for a net.

    Args:
        config: The configuration.
        net: The net; the optimizer may convert it.
        steps_per_epoch: Updates per epoch.

    Returns:
        The optimizer and its learning-rate schedule.

    Raises:
        UserError: If a value does not fit.
    """
    rate = _schedule(config.learning_rate, steps_per_epoch, config)
    options = {key: as_tuples(value) for key, value in config.optimizer.options.items()}
    if config.damping is not None:
        options["damping"] = _schedule(config.damping, steps_per_epoch, config)
    if config.rest_learning_rate is not None:
        options[REST_RATE] = _schedule(config.rest_learning_rate, steps_per_epoch, config)
    options = {**_from_run(config, steps_per_epoch), **options, **_loss_scale(config)}
    return create_optimizer(config.optimizer.name, net, rate, **options), rate


def _schedule(choice: ChoiceConfig, steps_per_epoch: int, config: Config) -> EpochSchedule:
    return create_schedule(choice.name, steps_per_epoch, config.train.epochs, **choice.options)


def _from_run(config: Config, steps_per_epoch: int) -> dict[str, int]:
    """Return what a method wants to know: batches per epoch, this rank's part of one, the seed."""
    known = {
        "steps_per_epoch": steps_per_epoch,
        "batch_size": config.data.batch_size // world()[1],
        "seed": config.train.seed,
    }
    wanted = optimizer_options(config.optimizer.name)
    return {key: value for key, value in known.items() if key in wanted}


def _loss_scale(config: Config) -> dict[str, float]:
    """Return the keyword for the optimizer, which unscales the gradients; none where it is 1."""
    scale, name = config.train.loss_scale, config.optimizer.name
    if scale == 1.0:
        return {}
    if config.train.dynamic_loss_scale:
        raise UserError(
            f"train.loss_scale is {scale:g} beside train.dynamic_loss_scale: give one of the two"
        )
    if "loss_scale" not in optimizer_options(name):
        raise UserError(
            f"train.loss_scale is {scale:g}, but optimizer {name!r} has no loss scale; set it to 1"
        )
    return {"loss_scale": scale}


def as_tuples(value: Any) -> Any:
    """Return tuples for lists: YAML has only these, but thresholds and milestones are tuples.

    Args:
        value: A plain value; what is no list stays.
    """
    return tuple(as_tuples(item) for item in value) if isinstance(value, list) else value
