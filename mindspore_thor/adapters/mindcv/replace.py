"""Our functions in place of mindcv's ``create_optimizer`` and ``create_trainer``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mindspore import nn

from mindspore_thor.adapters.mindcv import optimizer as optimizers
from mindspore_thor.adapters.mindcv import trainer as trainers
from mindspore_thor.adapters.mindcv.choice import (
    COMPILE_CACHE,
    OPTIONS,
    checked_options,
    method_of,
    refuse,
    with_schedules,
)
from mindspore_thor.cache.compile_cache import Choice
from mindspore_thor.errors import UserError

_OPTIMIZER_PLACES = ("mindcv", "mindcv.optim", "mindcv.optim.optim_factory")
_TRAINER_PLACES = ("mindcv.utils", "mindcv.utils.trainer_factory")


class _Made(NamedTuple):
    """A method that was built, and where its compiled graphs are kept."""

    method: str
    optimizer: nn.Optimizer
    cache: Choice


class Replacement:
    """mindcv's two functions, which go to this package where ``opt`` is one of its methods.

    Args:
        create_optimizer: mindcv's own.
        create_trainer: mindcv's own.

    Attributes:
        settings: What mindcv's command line said; empty in a script of one's own.
    """

    def __init__(
        self, create_optimizer: Callable[..., Any], create_trainer: Callable[..., Any]
    ) -> None:
        self._create_optimizer, self._create_trainer = create_optimizer, create_trainer
        self._made: list[_Made] = []
        self.settings: dict[str, Any] = {}

    def check(self, settings: Mapping[str, Any]) -> None:
        """Take over what mindcv's command line says, and refuse what cannot be, before any work.

        Args:
            settings: mindcv's keys and the one of ours.

        Raises:
            UserError: For what the method cannot be used with.
        """
        self.settings = dict(settings)
        method = method_of(settings["opt"])
        if method is not None:
            refuse(method, settings)
            checked_options(method, settings.get(OPTIONS))
        elif settings.get(OPTIONS):
            raise UserError(
                f"{OPTIONS} are of the methods of mindspore_thor, opt is mindcv's "
                f"{settings['opt']}: leave them out"
            )

    def create_optimizer(
        self,
        model_or_params: Any,
        opt: str = "adam",
        lr: Any = 1e-3,
        weight_decay: float = 0,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay_filter: str = "disable",
        layer_decay: float | None = None,
        loss_scale: float = 1.0,
        schedule_decay: float = 4e-3,
        checkpoint_path: str = "",
        eps: float = 1e-10,
        **options: Any,
    ) -> Any:
        """Do what mindcv's does; ``options`` are the method's where ``opt`` is ours.

        Raises:
            UserError: For what the method does not take.
        """
        method = method_of(opt)
        if method is None:
            return self._create_optimizer(
                *(model_or_params, opt, lr, weight_decay, momentum, nesterov, weight_decay_filter),
                *(layer_decay, loss_scale, schedule_decay, checkpoint_path, eps),
                **options,
            )
        known = self.settings
        refuse(method, {"use_nesterov": nesterov})
        accumulate, epochs = known.get("gradient_accumulation_steps", 1), known.get("epoch_size")
        rates, per_epoch = lr, None
        if isinstance(lr, (list, tuple)):
            # A rate for every batch; the last batch of an update brings its rate.
            rates = list(lr[accumulate - 1 :: accumulate])
            per_epoch = max(1, len(lr) // epochs // accumulate) if epochs else None
        if "loss_scale_type" in known:  # the trainer's scale, where it is not the optimizer's
            fixed = str(known["loss_scale_type"]).lower() == "fixed"
            loss_scale = known["loss_scale"] if fixed else 1.0
        given = checked_options(method, {**(known.get(OPTIONS) or {}), **options})
        cache = given.pop(COMPILE_CACHE, None) or None
        made = optimizers.build(
            *(model_or_params, method, rates, with_schedules(given, per_epoch, epochs)),
            weight_decay=float(weight_decay),
            momentum=momentum,
            weight_decay_filter=weight_decay_filter,
            layer_decay=layer_decay,
            loss_scale=float(loss_scale),
            steps_per_epoch=per_epoch,
            checkpoint_path=checkpoint_path,
        )
        self._made.append(_Made(method, made, cache))
        return made

    def create_trainer(
        self,
        network: nn.Cell,
        loss: nn.Cell,
        optimizer: nn.Optimizer,
        metrics: Any,
        amp_level: str = "O0",
        amp_cast_list: str | None = None,
        loss_scale_type: str = "fixed",
        loss_scale: float = 1.0,
        drop_overflow_update: bool = False,
        ema: bool = False,
        ema_decay: float = 0.9999,
        clip_grad: bool = False,
        clip_value: float = 15.0,
        gradient_accumulation_steps: int = 1,
    ) -> Any:
        """Do what mindcv's does, with a ``TrainStep`` in the Model where the optimizer is ours.

        Raises:
            UserError: For what the method cannot be used with.
        """
        made = next((one for one in self._made if one.optimizer is optimizer), None)
        if made is None:
            return self._create_trainer(
                *(network, loss, optimizer, metrics, amp_level, amp_cast_list, loss_scale_type),
                *(loss_scale, drop_overflow_update, ema, ema_decay, clip_grad, clip_value),
                gradient_accumulation_steps,
            )
        refuse(made.method, {"ema": ema, "clip_grad": clip_grad, "clip_value": clip_value})
        return trainers.build(
            *(network, loss, optimizer, metrics),
            amp_level=amp_level,
            amp_cast_list=amp_cast_list,
            loss_scale_type=loss_scale_type,
            loss_scale=loss_scale,
            accumulate=gradient_accumulation_steps,
            compile_cache=made.cache,
        )


def install() -> Replacement:
    """Let mindcv's ``create_optimizer`` and ``create_trainer`` know the methods of this package.

    Names that were imported from mindcv before stay mindcv's.

    Returns:
        What took their place; the same where this was done before.

    Raises:
        UserError: If mindcv is not installed, or has no such functions.
    """
    try:
        optim = importlib.import_module("mindcv.optim")
        utils = importlib.import_module("mindcv.utils")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mindcv":
            raise
        raise UserError(f"there is no package {error.name!r}: 'pip install mindcv'") from None
    before = getattr(optim.create_optimizer, "__self__", None)
    if isinstance(before, Replacement):
        return before
    found = Replacement(optim.create_optimizer, utils.create_trainer)
    for places, name in (
        (_OPTIMIZER_PLACES, "create_optimizer"),
        (_TRAINER_PLACES, "create_trainer"),
    ):
        for place in places:
            module = importlib.import_module(place)
            if hasattr(module, name):
                setattr(module, name, getattr(found, name))
    return found
