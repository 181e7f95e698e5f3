"""What all second-order optimizers share: coverage, intervals, momentum, decay, learning rate."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, Callable, Union

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindspore_thor.curvature.group import FACTORS, SPECTRUM
from mindspore_thor.curvature.state import state
from mindspore_thor.errors import UserError
from mindspore_thor.graph.kind import GraphKind
from mindspore_thor.graph.operators import ADD, ASSIGN, CAST, GREATER_EQUAL, MUL, SECTION
from mindspore_thor.optim.adam import adam_settings
from mindspore_thor.optim.checks import (
    check_choice,
    check_count,
    check_learning_rate,
    check_loss_scale,
    check_number,
    check_share_of_old,
)
from mindspore_thor.optim.exclusion import Exclude, check_exclude
from mindspore_thor.optim.intervals import Interval, IntervalLike
from mindspore_thor.optim.keywords import check_keywords, keywords_of
from mindspore_thor.optim.schedules import check_damping
from mindspore_thor.optim.update import ADAMS, SGD, UpdatingOptimizer
from mindspore_thor.parallel.assignment import Share, check_share
from mindspore_thor.runtime import prepare_target

Schedule = Union[float, nn.Cell]
RETRY_DAMPING = 10.0
"""Factor on the damping when a failed refresh is tried again."""

_CONSTANTS = (
    *("momentum", "damping", "clip_norm", "kl_clip", "loss_scale", "weight_decay"),
    *("factor_interval", "inverse_interval", "grafting", "momentum_first"),
)

_FACTORS = Tensor(FACTORS, ms.int32)  # a number is an int64 in PyNative mode
NEVER = 2**31 - 1
"""A step that does not come."""


@ops.constexpr
def _refuse(message: str) -> None:
    raise UserError(message)


def default_decay_filter(parameter: Parameter) -> bool:
    """Weight decay for matrices and kernels only: not for biases, nor BatchNorm or LayerNorm."""
    return len(parameter.shape) > 1


class SecondOrder(UpdatingOptimizer):
    """Base of the optimizers that precondition gradients layer by layer.

    A subclass says which layer types it covers and builds one curvature per group of layers.
    Everything that changes during training is a parameter of this cell.

    In a :class:`~mindspore_thor.step.train_step.TrainStep` the phases of a step are separate
    compiled graphs. In any other training cell (``Model(net, loss_fn, optimizer=...)``)
    ``parameters`` also lists the probes, the statistics arrive behind the gradients, and all phases
    run in one graph.

    Args:
        net: the network; its covered layers are changed in place so that they can capture
            (parameters, names and forward results stay as they are; copies and exported models are
            plain nets). A layer's samples are the rows of its input: one whose input is a single
            row for the whole batch takes the batch for one sample, see
            :mod:`mindspore_thor.layers.rows`.
        learning_rate: number, list, or MindSpore schedule.
        label: prefix of the state's parameter names.
        damping: lam, a positive number or a schedule cell (global step -> scalar).
        momentum: heavy-ball coefficient in [0, 1).
        weight_decay: added to the preconditioned gradient, lr * wd * w in effect.
        factor_interval: steps between two collections of statistics.
        inverse_interval: steps between two refreshes of what is derived from them.
        params: parameters or parameter groups as in ``nn.Optimizer``; default all trainable ones.
        decay_filter: which parameters decay; default those with two or more dimensions. Groups
            carry their own ``weight_decay`` instead.
        loss_scale: the loss is multiplied by it before the backward pass.
        clip_norm: largest global norm of the direction, or None.
        kl_clip: bound on lr^2 sum <V, D> (KFAC), or None.
        token_mode: how Dense layers treat [N, S, d] inputs, "expand" or "reduce". Positions at
            the end, or the beginning, of a sequence whose gradient is exactly zero are padding and
            count nowhere (see :func:`mindspore_thor.mark_tokens`). The first axis of a layer's
            input is taken for the batch. With sequences first, [S, N, d], "expand" is exact all the
            same where nothing is padded; "reduce", FNGD, LNGD and the counts of an Embedding then
            take S for N: swap the two axes before the layers and after them.
        max_failures: failed inversions of one layer in a row before training stops.
        inverse_share: with several ranks, on how many of them each matrix is inverted: "one", "all"
            or a number that divides the ranks (see :mod:`mindspore_thor.parallel.assignment`).
        rest: the rule of all parameters that the method does not cover: None for the plain gradient
            (momentum and rate as the others), "adamw" for AdamW steps, "nadamw" for NAdamW's.
        rest_learning_rate: that rule's rate: number, list or MindSpore schedule; None for
            ``learning_rate``, parameter groups' own ones included.
        rest_betas: those of AdamW or NAdamW, for ``rest`` and for ``grafting``.
        rest_epsilon: likewise.
        rest_weight_decay: the rest's decoupled decay, of the parameters that decay; None for
            ``weight_decay``.
        grafting: None, or the rule whose step's norm each covered layer's direction gets: "sgd",
            "adamw" or "nadamw". ``learning_rate`` is then that rule's, and the method's default
            ``kl_clip``, another way to choose lengths, is off; one that is given is applied
            afterwards. With "adamw" one will want ``rest="adamw"`` as well, "nadamw" likewise.
        momentum_first: whether momentum is an average in front of grafting instead of a sum behind
            it: of the gradients, before they are preconditioned, or with FNGD and LNGD, whose
            directions leave the backward pass, of the directions. It is AdamW's first moment, or
            NAdamW's with the gradient once more, so that ``grafting`` and ``rest`` are both "adamw"
            or both "nadamw", and ``momentum`` is ``rest_betas[0]``. Both are the same where a
            preconditioner stays as it is, but for a LayerNorm's, which is not linear.
        exclude: layers that the method leaves to ``rest`` though it could cover them, as a
            generator with one output for each word of a vocabulary. Given by their names, as the
            layer report spells them, where a name stands for all layers below it; "last" for the
            last one in the order of the parameters, where there are several; or None.

    Raises:
        UserError: for values out of range, and names that are no covered layers.
    """

    derives: bool = True  # whether refreshes happen at all
    first_refresh: int = 0  # the step, counted from 0, before whose update the first one is made
    collects: bool = True  # whether any step collects statistics before its update
    observes: bool = False  # whether statistics are made of the gradients themselves
    remeasures: bool = False  # whether a refresh calls for new statistics of the same batch
    measures_first: bool = False  # whether statistics come from a pass before the step
    needs_samples: bool = False  # whether somebody has yet to tell the batch size
    needs_whole_batch: str = ""  # why gradients cannot be accumulated over micro-batches
    without: tuple[str, ...] = ()
    """Keywords of this class that the method does not have."""
    own_momentum: bool = False  # whether directions hold momentum: then there is none around them
    own_token_mode: str = ""  # how it sees tokens where that is no option

    def __new__(cls, *args: Any, **options: Any) -> Any:
        """Refuse what the method does not have before anything is built."""
        check_keywords(cls.__name__, options, cls.keywords())
        return super().__new__(cls, *args, **options)

    @classmethod
    def keywords(cls) -> dict[str, inspect.Parameter]:
        """The constructor's keywords and their defaults."""
        return keywords_of(cls, SecondOrder, cls.without)

    def __init__(
        self,
        net: nn.Cell,
        learning_rate: Any,
        *,
        label: str,
        damping: Schedule,
        momentum: float,
        weight_decay: float,
        factor_interval: IntervalLike = 1,
        inverse_interval: IntervalLike = 1,
        params: Iterable[Any] | None = None,
        decay_filter: Callable[[Parameter], bool] = default_decay_filter,
        loss_scale: float = 1.0,
        clip_norm: float | None = None,
        kl_clip: float | None = None,
        token_mode: str = "expand",
        max_failures: int = 10,
        inverse_share: Share = "one",
        rest: str | None = None,
        rest_learning_rate: Any = None,
        rest_betas: tuple[float, float] = (0.9, 0.999),
        rest_epsilon: float = 1e-8,
        rest_weight_decay: float | None = None,
        grafting: str | None = None,
        momentum_first: bool = False,
        exclude: Exclude = None,
    ) -> None:
        if not isinstance(net, nn.Cell):
            raise UserError(
                f"net is a {type(net).__name__}: pass the network (an nn.Cell), not its parameters"
            )
        momentum = check_share_of_old("momentum", momentum)
        check_number("weight_decay", weight_decay, 0.0)
        check_loss_scale(loss_scale)
        check_choice("token_mode", token_mode, ("expand", "reduce"))
        if clip_norm is not None:
            check_number("clip_norm", clip_norm, 0.0, open_low=True)
        if kl_clip is not None:
            check_number("kl_clip", kl_clip, 0.0, open_low=True)
        check_count("max_failures", max_failures)
        if grafting is not None:
            check_choice("grafting", grafting, (SGD, *ADAMS))
        adam = adam_settings(rest_betas, rest_epsilon, "rest_")
        if rest is not None:
            check_choice("rest", rest, ADAMS)
        elif rest_learning_rate is not None or rest_weight_decay is not None:
            raise UserError(
                "rest_learning_rate and rest_weight_decay are the rest's: give rest='adamw', or "
                "'nadamw', too"
            )
        if momentum_first and (grafting not in ADAMS or rest != grafting):
            raise UserError(
                "momentum_first averages by AdamW's first moment, or NAdamW's: give "
                "grafting='adamw' and rest='adamw', too, or 'nadamw' for both"
            )
        if momentum_first and momentum != adam.beta1:
            raise UserError(
                f"momentum={momentum:g}, but rest_betas[0]={adam.beta1:g}: with momentum_first "
                "they are one average; give both the same value"
            )
        if rest_weight_decay is not None:
            check_number("rest_weight_decay", rest_weight_decay, 0.0)
        self.exclude = check_exclude(exclude)
        self._inverse_share = check_share(inverse_share)
        prepare_target()
        check_learning_rate(learning_rate)
        trained = list(net.trainable_params() if params is None else params)
        if not trained:
            raise UserError(
                f"{type(net).__name__} has no trainable parameters: set their requires_grad"
            )
        # The base class multiplies weight decay by the loss scale because it decays before it
        # unscales; here gradients are unscaled first.
        super().__init__(learning_rate, trained, weight_decay, loss_scale=1.0)
        self.loss_scale = float(loss_scale)
        self.inverse_scale = 1.0 / self.loss_scale
        self.weights = self._parameters
        if not self.is_group:
            self.decay_flags = tuple(bool(decay_filter(p)) for p in self.weights)
        self.momentum = momentum
        self.momentum_first = momentum_first
        self.heavy_ball = 0.0 if self.own_momentum or momentum_first else momentum
        self.clip_norm = clip_norm
        clip = self.keywords().get("kl_clip")
        if grafting is not None and clip is not None and kl_clip == clip.default:
            kl_clip = None
        self.kl_clip = kl_clip
        self.grafting = grafting
        self.max_failures = max_failures
        self.scheduled_damping = isinstance(damping, nn.Cell)
        check_damping(damping)
        if not isinstance(damping, nn.Cell):
            damping = Tensor(check_number("damping", damping, 0.0, open_low=True), ms.float32)
        self.damping = damping
        self.factor_interval = Interval("factor_interval", factor_interval)
        self.inverse_interval = Interval("inverse_interval", inverse_interval)
        # Two optimizers in one graph must not share a name: each has the first of its own weights.
        scope = f"{label}.{self.weights[0].name}"
        first = (int(self.collects), 0 if self.collects else NEVER)
        self.due = state(np.full((), first[0], np.int32), f"{scope}.due")
        self.next_factor = state(np.full((), first[1], np.int32), f"{scope}.next_factor")
        first_inverse = np.full((), self.first_refresh if self.derives else NEVER, np.int32)
        self.next_inverse = state(first_inverse, f"{scope}.next_inverse")
        self.samples = state(np.ones((), np.int32), f"{scope}.samples")
        self.graph = GraphKind()
        self._prepare_update(label, rest, rest_learning_rate, rest_weight_decay, adam)
        self._cover(net, label, self.own_token_mode or token_mode)
        # Chosen here: a question in a graph is two functions to the compiler.
        observed = self.observes and len(self.packings) > 0
        self.show_gradients = self.shown if observed else self.not_shown
        self.planned = self.kept_plan if self.remeasures else self.as_planned
        self.due_of = self.spectrum_due if self.remeasures else self.factors_due
        self._made = True

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse what compiled graphs would not see."""
        if name in _CONSTANTS and self.__dict__.get("_made", False):
            raise UserError(
                f"{name} of {type(self).__name__} cannot be changed: compiled graphs hold it; "
                f"make the optimizer with another {name}, or with a schedule where it takes one"
            )
        super().__setattr__(name, value)

    # -- one step, inside compiled graphs -----------------------------------------------------

    def step_number(self) -> Tensor:
        """The number of finished steps, int32 scalar."""
        return self.global_step.reshape(())

    def current_damping(self) -> Tensor:
        """Lam of this step, float32 scalar."""
        if self.scheduled_damping:
            return self.damping(self.global_step).reshape(())
        return self.damping

    def collect(self, gradients: tuple[Tensor, ...]) -> bool:
        """Let fresh statistics enter: gradients of ``parameters``, the probes' last.

        Those of the probes alone are enough where ``measures_first``.
        """
        step = self.step_number()
        self.collect_probes(SECTION(gradients, self.probes_section))
        self.show_gradients(gradients)
        ASSIGN(self.next_factor, self.planned(ADD(step, self.factor_interval(step))))
        return True  # see GroupCurvature.collect

    def as_planned(self, step: Tensor) -> Tensor:
        """When statistics are collected again."""
        return step

    def kept_plan(self, step: Tensor) -> Tensor:
        """The same where a second pass is no collection."""
        return ops.where(self.due == SPECTRUM, self.next_factor, step)

    def refresh(self) -> bool:
        """Derive inverses (or what the method uses) from the statistics."""
        step = self.step_number()
        damping = self.current_damping()
        self.refresher.refresh(damping)
        ASSIGN(self.next_inverse, ADD(step, self.inverse_interval(step)))
        if self.remeasures:
            ops.assign(self.due, SPECTRUM * ops.ones_like(self.due))
        return True  # see GroupCurvature.collect

    def refresh_stored(self) -> bool:
        """Refresh where that is due and this step collects nothing.

        Such a refresh depends on stored statistics alone, so it happens even if the batch turns
        out to be bad.
        """
        if ops.logical_and(self.step_number() >= self.next_inverse, self.due == 0):
            self.refresh_and_retry()
        return True  # see GroupCurvature.collect

    def refresh_due(self) -> Tensor:
        """Whether inverses are due and the collection, if any was due, has happened."""
        step = self.step_number()
        return ops.logical_and(step >= self.next_inverse, step < self.next_factor)

    def retry(self) -> bool:
        """Refresh once more, with more damping, the layers whose last refresh failed."""
        self.refresher.retry(self.current_damping() * RETRY_DAMPING)
        return True  # see GroupCurvature.collect

    def refresh_and_retry(self) -> bool:
        """Both in one graph, the second where the first one failed."""
        self.refresh()
        if self.refresher.failed():
            self.retry()
        return True  # see GroupCurvature.collect

    def advance(self) -> bool:
        """Count the step and say whether the next one collects statistics."""
        self.assignadd(self.global_step, self.global_step_increase_tensor)
        step = self.step_number()
        due = MUL(CAST(GREATER_EQUAL(step, self.next_factor), ms.int32), _FACTORS)
        ASSIGN(self.due, self.due_of(step, due))
        return True  # see GroupCurvature.collect

    def factors_due(self, step: Tensor, due: Tensor) -> Tensor:
        """What the next step collects."""
        return due

    def spectrum_due(self, step: Tensor, due: Tensor) -> Tensor:
        """The same with what depends on the basis, unless a refresh follows and throws it away."""
        return ops.where(step >= self.next_inverse, due, due * (1 + SPECTRUM))

    def prepare(self, gradients: tuple[Tensor, ...]) -> bool:
        """All that comes before the update: gradients of ``parameters``, the statistics last."""
        if len(gradients) != self.passed_count + self.probe_count:
            raise ValueError(
                "gradients of optimizer.parameters are needed (weights and probes); use "
                "mindspore_thor.TrainStep, or differentiate by optimizer.parameters"
            )
        if self.collects and self.due > 0:
            self.collect(gradients)
        if self.derives and self.step_number() >= self.next_inverse:
            self.refresh_and_retry()
        return True  # see GroupCurvature.collect

    def construct(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """All phases in one graph: gradients of ``parameters``, the statistics last."""
        if self.superseded:
            _refuse(self.superseded)
        if not self.graph.guarded:
            _refuse(
                "a TrainStep was made with this optimizer: make another one for another training "
                "cell"
            )
        if self.needs_samples:
            _refuse(
                "the rule of LayerNorm layers needs the batch size: give the optimizer batch_size, "
                "or use mindspore_thor.TrainStep(net, loss_fn, optimizer) as the Model's network"
            )
        self.take(gradients)
        return self.step_number()

    def take(self, gradients: tuple[Tensor, ...]) -> bool:
        """All phases in one graph, for gradients of ``parameters`` as the backward pass made them.

        Called by a TrainStep; other training cells call the optimizer itself.
        """
        self.prepare(gradients)
        self.update(SECTION(gradients, self.passed_section))
        return True  # see GroupCurvature.collect

    # -- on the host --------------------------------------------------------------------------

    def expect_batch(self, batch_size: int) -> None:
        """Called before every step with the batch's size; most methods take any."""
