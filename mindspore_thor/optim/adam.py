"""Adam's direction (Kingma & Ba 2015), as AdamW, NAdamW, the rest rule and grafting use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mindspore import Parameter, Tensor

from mindspore_thor.errors import UserError, quoted
from mindspore_thor.graph.operators import ADD, ASSIGN, CAST, DIV, ITEM, MUL, POW, SQRT, SUB
from mindspore_thor.optim.checks import check_number, check_share_of_old


class AdamSettings(NamedTuple):
    """What Adam's direction depends on besides the gradients.

    Attributes:
        beta1: weight of the old first moment.
        beta2: weight of the old second moment.
        epsilon: added to the second one's root.
        nesterov: whether the gradient counts once more in the first moment (Dozat 2016).
    """

    beta1: float
    beta2: float
    epsilon: float
    nesterov: bool = False


Settings = tuple[float, float, float, bool]
"""The same for graphs, whose parser takes a named tuple's fields only."""


def adam_settings(
    betas: Any, epsilon: Any, prefix: str = "", nesterov: bool = False
) -> AdamSettings:
    """Check and return the settings.

    Args:
        betas: two numbers in [0, 1).
        epsilon: a number above 0.
        prefix: of the keywords' names in messages.
        nesterov: see :class:`AdamSettings`.

    Raises:
        UserError: for anything else.
    """
    name = f"{prefix}betas"
    if not isinstance(betas, Sequence) or isinstance(betas, str) or len(betas) != 2:
        raise UserError(f"{name}={quoted(betas)}: give two numbers in [0, 1)")
    beta1, beta2 = (check_share_of_old(name, beta) for beta in betas)
    epsilon = check_number(f"{prefix}epsilon", epsilon, 0.0, open_low=True)
    return AdamSettings(beta1, beta2, epsilon, nesterov)


def as_tuple(settings: AdamSettings) -> Settings:
    """The settings as graphs take them."""
    return settings.beta1, settings.beta2, settings.epsilon, settings.nesterov


def bias_corrections(settings: Settings, step: Tensor) -> tuple[Tensor, Tensor]:
    """1 - beta^t of both moments.

    Args:
        settings: see :class:`AdamSettings`.
        step: t, float32 scalar, 1 in the first step.
    """
    return SUB(1.0, POW(settings[0], step)), SUB(1.0, POW(settings[1], step))


def next_first_moment(settings: Settings, first: Tensor, gradient: Tensor) -> Tensor:
    """b1 m + (1 - b1) g, of the moment's type.

    Args:
        settings: see :class:`AdamSettings`.
        first: m, any shape.
        gradient: of the same shape.
    """
    beta1 = settings[0]
    return ADD(MUL(first, beta1), MUL(CAST(gradient, first.dtype), 1.0 - beta1))


def ahead_of(settings: Settings, new_first: Tensor, gradient: Tensor) -> Tensor:
    """m, or b1 m + (1 - b1) g with Nesterov's momentum: the numerator without bias correction.

    Args:
        settings: see :class:`AdamSettings`.
        new_first: m, from :func:`next_first_moment` with this gradient.
        gradient: of the same shape and type.
    """
    if not settings[3]:
        return new_first
    beta1 = settings[0]
    return ADD(MUL(new_first, beta1), MUL(gradient, 1.0 - beta1))


def averaged(settings: Settings, first: Tensor, gradient: Tensor) -> Tensor:
    """The average that Adam would step along, without letting the gradient enter the moment.

    Args:
        settings: see :class:`AdamSettings`.
        first: m from before this step, any shape.
        gradient: of the same shape.
    """
    new_first = next_first_moment(settings, first, gradient)
    return ahead_of(settings, new_first, CAST(gradient, first.dtype))


def enter_average(settings: Settings, first: Parameter, direction: Tensor) -> Tensor:
    """Let a direction enter an average like Adam's first moment, and return what to step along.

    Args:
        settings: see :class:`AdamSettings`.
        first: the average, any shape.
        direction: of the same shape.
    """
    new_first = next_first_moment(settings, first, direction)
    ahead = ahead_of(settings, new_first, CAST(direction, first.dtype))
    ASSIGN(first, new_first)
    return ahead


def adam_direction(
    settings: Settings,
    corrections: tuple[Tensor, Tensor],
    first: Parameter,
    second: Parameter,
    gradient: Tensor,
) -> Tensor:
    """Let a gradient enter the moments; m^ / (sqrt(v^) + eps), of the moments' shape and type.

    With Nesterov's momentum b1 m^ + (1 - b1) g / (1 - b1^t) stands for m^.

    Args:
        settings: see :class:`AdamSettings`.
        corrections: from :func:`bias_corrections`.
        first: m, any shape.
        second: v, of the same shape.
        gradient: of the same shape.
    """
    beta2 = settings[1]
    gradient = CAST(gradient, first.dtype)
    new_first = next_first_moment(settings, first, gradient)
    new_second = ADD(MUL(second, beta2), MUL(MUL(gradient, 1.0 - beta2), gradient))
    ahead = DIV(ahead_of(settings, new_first, gradient), ITEM(corrections, 0))
    root = SQRT(DIV(new_second, ITEM(corrections, 1)))
    direction = DIV(ahead, ADD(root, settings[2]))
    ASSIGN(first, new_first)
    ASSIGN(second, new_second)
    return direction
