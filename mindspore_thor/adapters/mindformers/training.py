"""An optimizer and a training wrapper, as mindformers builds them from a configuration.

mindformers hands an optimizer parameters only, and its network to the wrapper: so the first keeps
the settings, and the second makes the method of both.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from mindspore_thor.errors import UserError, quoted
from mindspore_thor.methods import METHODS, optimizer_options
from mindspore_thor.optim.base import SecondOrder
from mindspore_thor.optim.keywords import check_keywords
from mindspore_thor.step.train_step import TrainStep


class SecondOrderSettings(nn.Optimizer):
    """The settings of a method of this package; ``optimizer.type`` in mindformers.

    It moves nothing by itself: :class:`SecondOrderWrapper`, as ``runner_wrapper.type``, makes the
    method.

    Args:
        params: parameters, or groups of them.
        learning_rate: number or MindSpore schedule.
        method: name of the method.
        weight_decay: of parameters without a group's own.
        **options: the method's keywords.
    """

    def __init__(
        self,
        params: Iterable[Any],
        learning_rate: Any = 1e-3,
        method: str = "thor",
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        groups = list(params)
        super().__init__(learning_rate, groups, weight_decay)
        self.method, self.given = method, learning_rate
        self.groups, self.decay, self.options = groups, weight_decay, options

    def build(self, net: nn.Cell) -> nn.Optimizer:
        """Make the method for a network.

        Raises:
            UserError: for an unknown method, or settings that it does not take.
        """
        known = optimizer_options(self.method)
        made_by = METHODS[self.method]
        if not (inspect.isclass(made_by) and issubclass(made_by, SecondOrder)):
            raise UserError(
                f"optimizer.method {self.method!r} is no second-order method: take mindformers' own"
            )
        check_keywords(self.method, self.options, known)
        return made_by(net, self.given, params=self.groups, weight_decay=self.decay, **self.options)

    def construct(self, gradients: Any) -> Any:
        """Refuse to be used as an optimizer."""
        raise UserError("this holds settings only: set runner_wrapper.type to SecondOrderWrapper")


class SummedLoss(nn.Cell):
    """A mindformers network -> its loss, one number.

    Args:
        net: returns the loss, or a tuple of losses that add up, as its GPT models do: language
            model, further tokens, experts, indexer.
    """

    def __init__(self, net: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.net = net

    def construct(self, *inputs: Tensor) -> Tensor:
        """Inputs of the net -> float32 scalar."""
        parts = self.net(*inputs)
        if not isinstance(parts, tuple):
            return ops.cast(parts, ms.float32).reshape(-1).sum()
        total = Tensor(0.0, ms.float32)
        for part in parts:
            total = total + ops.cast(part, ms.float32).reshape(-1).sum()
        return total


_IGNORED = {
    "parallel_config": None,
    "lr_scheduler": None,
    "print_separate_loss": None,
    "global_norm_spike_threshold": None,
    "local_norm": False,
    "grouped_lr_scheduler": None,
    "calculate_per_token_loss": False,
    "use_skip_data_by_global_norm": False,
    "use_clip_grad": False,
}
"""What mindformers gives to every wrapper -> the only value that is taken; None for any."""

_MUST_BE_OFF = (
    *("grouped_lr_scheduler", "calculate_per_token_loss", "use_skip_data_by_global_norm"),
    *("use_clip_grad", "local_norm"),
)


class SecondOrderWrapper(nn.Cell):
    """A training step of this package; ``runner_wrapper.type`` in mindformers.

    Args:
        network: returns the loss, or losses that add up.
        optimizer: :class:`SecondOrderSettings`, or any other optimizer.
        scale_sense: a fixed loss scale; 1 for none.
        **given: what mindformers gives to every wrapper.

    Inputs:
        Those of the network.

    Outputs:
        (loss, overflow, loss scale): a float32 scalar, False, and a number; what is not finite is
        skipped, see ``TrainStep``.

    Raises:
        UserError: for a choice of mindformers' that has no meaning here.
    """

    def __init__(
        self, network: nn.Cell, optimizer: nn.Optimizer, scale_sense: Any = 1.0, **given: Any
    ) -> None:
        super().__init__(auto_prefix=False)
        for name, value in given.items():
            if name not in _IGNORED:
                raise UserError(f"runner_wrapper has no key {quoted(name, 40)} with this type")
            if name in _MUST_BE_OFF and value:
                raise UserError(
                    f"runner_wrapper: {name} is not known to SecondOrderWrapper: switch it off "
                    "(the methods clip by their own clip_norm)"
                )
        scale = _number(scale_sense)
        if isinstance(optimizer, SecondOrderSettings):
            if scale != 1.0:
                optimizer.options["loss_scale"] = scale
            optimizer = optimizer.build(network)
        elif scale != float(optimizer.loss_scale):
            raise UserError("runner_wrapper.scale_sense differs from the optimizer's loss_scale")
        self.network, self.optimizer = network, optimizer
        self.step = TrainStep(SummedLoss(network), None, optimizer)
        self.scale = scale

    def construct(self, *inputs: Tensor) -> tuple[Tensor, bool, float]:
        """One step, where it is compiled into another graph."""
        return self.step(*inputs), False, self.scale

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, bool, float]:
        """One step by the graphs that it needs."""
        return self.step(*inputs), False, self.scale


def _number(scale: Any) -> float:
    value = scale.asnumpy() if isinstance(scale, (Tensor, Parameter)) else scale
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(
            f"runner_wrapper.scale_sense is {quoted(type(scale).__name__, 60)}: give a number"
        ) from None
