"""From gradients to new weights: directions, the stages around them, momentum, the rest's rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, ops

from mindspore_thor.curvature.state import state
from mindspore_thor.graph.operators import ASSIGN_SUB, CAST, CHAIN, MUL, SECTION
from mindspore_thor.graph.tuples import call, joined, pick
from mindspore_thor.linalg.device import momentum_step
from mindspore_thor.linalg.sums import total
from mindspore_thor.optim.adam import (
    AdamSettings,
    adam_direction,
    as_tuple,
    averaged,
    bias_corrections,
    enter_average,
)
from mindspore_thor.optim.each_group import (
    directed,
    hand,
    inner,
    product,
    squared_rates,
    times_each,
)
from mindspore_thor.optim.grafting import with_length_of
from mindspore_thor.optim.layerwise import LayerwiseOptimizer
from mindspore_thor.optim.packing import matrices_shape, pack, unpack
from mindspore_thor.optim.rest import Rest

SGD, ADAMW, NADAMW = "sgd", "adamw", "nadamw"
"""Rules of others that a method may follow."""

ADAMS = (ADAMW, NADAMW)

# What ops.Map calls, see layerwise.py. What has an effect returns something all the same: without a
# result a function compiles to a call of the Python interpreter.


def _scale(factor: float, gradient: Tensor) -> Tensor:
    return MUL(gradient, factor)


def _move(momentum: float, rate: Any, weight: Parameter, moment: Parameter, step: Tensor) -> bool:
    momentum_step(weight, moment, rate, step, momentum)
    return True


def _move_by_rates(
    momentum: float, rate: Any, weight: Parameter, moment: Parameter, step: Tensor
) -> bool:
    momentum_step(weight, moment, 1.0, MUL(step, CAST(rate, step.dtype)), momentum)
    return True


def _descend(rate: Any, weight: Parameter, step: Tensor) -> bool:
    ASSIGN_SUB(weight, MUL(rate, step))
    return True


class UpdatingOptimizer(LayerwiseOptimizer):
    """What an optimizer does with the gradients of a step and the curvature that it has.

    A subclass's ``__init__`` sets what is declared below, and calls ``_prepare_update`` before
    ``_cover``.
    """

    rate_inside_momentum: bool = False  # m <- mu m + lr d, w <- w - m; else m <- mu m + d
    stages: tuple[str, ...] = ("precondition", "decay", "centralize", "clip")
    """What makes a step of gradients, in order: names of methods (gradients, rate) -> gradients.

    A method that wants another order, or another stage among them, says so here.
    """
    decay_flags: tuple[bool, ...]
    heavy_ball: float  # momentum around the directions
    momentum_first: bool  # whether momentum is an average in front of grafting
    clip_norm: float | None
    kl_clip: float | None
    loss_scale: float
    inverse_scale: float

    def _prepare_update(
        self, label: str, rest: str | None, rate: Any, decay: float | None, adam: AdamSettings
    ) -> None:
        self._label = label
        self.grafts_adam = self.grafting in ADAMS
        self.adam = as_tuple(adam._replace(nesterov=self.grafting == NADAMW))
        adam = adam._replace(nesterov=rest == NADAMW)
        self.rest = None if rest is None else Rest(label, self.weights, rate, adam, decay)
        self.decaying = tuple(self.decay_flags)
        self._moment_of: dict[int, Parameter] = {}

    def _idle_stages(self) -> set[str]:
        """The stages of this class that would return what they are given: in no graph then."""
        centralizes = self.is_group and any(self.grad_centralization_flags)
        idle = {
            "precondition": len(self.packings) == 0
            and type(self).direction is UpdatingOptimizer.direction,
            "decay": not self.exec_weight_decay,
            "centralize": not centralizes,
            "clip": self.clip_norm is None,
        }
        own = UpdatingOptimizer
        return {k for k, v in idle.items() if v and getattr(type(self), k) is getattr(own, k)}

    def _cover(self, net: Any, label: str, token_mode: str) -> None:
        super()._cover(net, label, token_mode)
        if self.grafts_adam and self.packings:
            self.graft_first = self._moments_of_groups("graft_first")
            self.graft_second = self._moments_of_groups("graft_second")
        if self.momentum_first and self.beside_count > 0:
            self.direction_first = self._moments_of_groups("direction_first")
        # Chosen here: a question in a graph is two functions to the compiler.
        idle = self._idle_stages()
        self.stage_list = tuple(getattr(self, name) for name in self.stages if name not in idle)
        self.weights_section = slice(None, len(self.weights))
        self.beside_section = slice(len(self.weights), None)
        self.move_rest = self.no_rest if self.rest is None else self.moved_rest
        self.directions = self.directions_of_groups
        if self.beside_count > 0:
            self.directions = self.averages_beside if self.momentum_first else self.given_beside
        elif self.momentum_first:
            self.directions = self.directions_of_averages
        self.lengthen = self.as_found if self.grafting is None else self.grafted
        self.limit = self.as_found if self.kl_clip is None else self.clipped
        self.move_one = _move_by_rates if self.rate_inside_momentum else _move

    def _moments_of_groups(self, kind: str) -> ParameterTuple:
        return ParameterTuple(
            [
                state(
                    np.zeros(matrices_shape(packing), np.float32),
                    f"{self._label}.{kind}.{self.weights[packing.weights[0]].name}",
                )
                for packing in self.packings
            ]
        )

    def divide(self) -> None:
        """Part the parameters between the method and the rest, as the layers' uses are now known.

        It holds for the graphs that are compiled from now on.
        """
        held = list(range(len(self.weights)))
        if self.rest is not None:
            held = [i for i in held if i in self.preconditioned]
            rest = [i for i in range(len(self.weights)) if i not in self.preconditioned]
            self.rest.take(rest, self.decaying)
            self.decay_flags = tuple(
                decays and i in self.preconditioned for i, decays in enumerate(self.decaying)
            )
        self.kept_numbers = tuple(held)
        self.kept_count = len(self.kept_numbers)
        self.kept = ParameterTuple([self.weights[i] for i in held])
        if self.heavy_ball > 0:
            if not self._moment_of:
                self._make_moments()
            self.moving = ParameterTuple([self._moment_of[i] for i in held])

    def _make_moments(self) -> None:
        # Also of layers that are plain as far as anybody knows yet.
        held = range(len(self.weights)) if self.rest is None else self.coverable
        weights = ParameterTuple([self.weights[i] for i in held])
        self.moments = weights.clone(prefix=f"{self._label}.moments", init="zeros")
        self._moment_of = dict(zip(held, self.moments))

    # -- inside compiled graphs ---------------------------------------------------------------

    def unscale(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Undo the loss scale on gradients; statistics are unscaled where they are captured."""
        if self.loss_scale == 1.0:
            return gradients
        return self.map(ops.partial(_scale, self.inverse_scale), gradients)

    def shown(self, gradients: tuple[Tensor, ...]) -> bool:
        """Let the groups observe the gradients of ``passed``, in their parameters' shapes."""
        unscaled = self.unscale(SECTION(gradients, self.passed_section))
        self.map(hand, self.observe_each, self.matrices(unscaled))
        return True

    def not_shown(self, gradients: tuple[Tensor, ...]) -> bool:
        """Where nobody observes them."""
        return True

    def update(self, gradients: tuple[Tensor, ...]) -> bool:
        """Gradients of ``passed`` -> new weights, by the stages in their order; count the step."""
        lr = self.get_lr()
        gradients = self.unscale(gradients)
        gradients = self.move_rest(gradients, lr)
        for stage in self.stage_list:
            gradients = stage(gradients, lr)
        self.move(gradients, lr)
        self.advance()
        return True  # see GroupCurvature.collect

    def no_rest(self, gradients: tuple[Tensor, ...], lr: Any) -> tuple[Tensor, ...]:
        """The method moves everything: its gradients."""
        return gradients

    def moved_rest(self, gradients: tuple[Tensor, ...], lr: Any) -> tuple[Tensor, ...]:
        """Move what another rule moves: the gradients that are left to the method."""
        own = SECTION(gradients, self.weights_section)
        rest: Any = self.rest
        own = rest.move(own, lr, self.get_weight_decay(), self.global_step)
        return CHAIN(own, SECTION(gradients, self.beside_section))

    def precondition(self, gradients: tuple[Tensor, ...], lr: Any) -> tuple[Tensor, ...]:
        """Stage: the method's directions of the covered layers, with grafting and KL clip."""
        return self.direction(gradients, lr)

    def decay(self, gradients: tuple[Tensor, ...], lr: Any) -> tuple[Tensor, ...]:
        """Stage: weight decay, added to the direction."""
        return self.decay_weight(gradients)

    def centralize(self, gradients: tuple[Tensor, ...], lr: Any) -> tuple[Tensor, ...]:
        """Stage: gradient centralization, where parameter groups ask for it."""
        return self.gradients_centralization(gradients)

    def clip(self, gradients: tuple[Tensor, ...], lr: Any) -> tuple[Tensor, ...]:
        """Stage: the global norm is at most ``clip_norm``."""
        return ops.clip_by_global_norm(gradients, self.clip_norm)

    def move(self, gradients: tuple[Tensor, ...], lr: Any) -> bool:
        """Momentum and the learning rate: what the stages have made becomes the step."""
        if self.rest is not None:
            if self.kept_count == 0:
                return True
            gradients = self.map(ops.partial(pick, gradients), self.kept_numbers)
            if self.is_group_lr:
                lr = self.map(ops.partial(pick, lr), self.kept_numbers)
        if self.heavy_ball > 0:
            if self.is_group_lr:
                move = ops.partial(self.move_one, self.heavy_ball)
                self.map(move, lr, self.kept, self.moving, gradients)
            else:
                move = ops.partial(self.move_one, self.heavy_ball, lr)
                self.map(move, self.kept, self.moving, gradients)
        elif self.is_group_lr:
            self.map(_descend, lr, self.kept, gradients)
        else:
            self.map(ops.partial(_descend, lr), self.kept, gradients)
        return True

    def direction(self, gradients: tuple[Tensor, ...], lr: Any) -> tuple[Tensor, ...]:
        """Preconditioned gradients, in the parameters' order and shapes.

        Args:
            gradients: of ``passed``.
            lr: the learning rate, or one for every parameter.
        """
        plain = self.matrices(gradients)
        found = self.lengthen(self.directions(gradients, plain), plain, lr)
        found = self.limit(found, plain, lr)
        flat: tuple[Tensor, ...] = ()
        for group in self.map(ops.partial(unpack, gradients), self.packings, found):
            flat = CHAIN(flat, group)
        # One flat tuple: the compiler's time grows steeply with nested ones.
        flat = CHAIN(flat, SECTION(gradients, self.weights_section))
        return self.map(ops.partial(pick, flat), self.places)

    def directions_of_groups(
        self, gradients: tuple[Tensor, ...], plain: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """V of every group, in the shapes of ``plain``, its gradients (:meth:`matrices`)."""
        directed_by = ops.partial(directed, self.current_damping())
        return self.map(directed_by, self.direction_each, plain)

    def directions_of_averages(
        self, gradients: tuple[Tensor, ...], plain: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """V of every group, of what the grafted rule's numerator will be in this step."""
        sources = self.map(ops.partial(averaged, self.adam), self.graft_first, plain)
        return self.directions_of_groups(gradients, sources)

    def given_beside(
        self, gradients: tuple[Tensor, ...], plain: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """V of every group, which the backward pass made and put behind the gradients."""
        return self.map(ops.partial(pack, gradients), self.beside_packings)

    def averages_beside(
        self, gradients: tuple[Tensor, ...], plain: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """The averages of those."""
        enter = ops.partial(enter_average, self.adam)
        return self.map(enter, self.direction_first, self.given_beside(gradients, plain))

    def as_found(
        self, matrices: tuple[Tensor, ...], plain: tuple[Tensor, ...], lr: Any
    ) -> tuple[Tensor, ...]:
        """V as it is, in the shapes of :meth:`matrices`."""
        return matrices

    def grafted(
        self, matrices: tuple[Tensor, ...], plain: tuple[Tensor, ...], lr: Any
    ) -> tuple[Tensor, ...]:
        """V with the lengths of what the grafted rule would step."""
        return self.map(with_length_of, self.group_layers, matrices, self.steps_of(plain))

    def steps_of(self, matrices: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What the rule that is grafted would step, for every group's gradients."""
        if not self.grafts_adam:
            return matrices
        step = ops.cast(self.global_step.reshape(()), ms.float32) + 1.0
        corrections = bias_corrections(self.adam, step)
        adam = ops.partial(adam_direction, self.adam, corrections)
        return self.map(adam, self.graft_first, self.graft_second, matrices)

    def matrices(self, gradients: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The gradients of every group, see :func:`mindspore_thor.optim.packing.packing_of`."""
        return self.map(ops.partial(pack, gradients), self.packings)

    def clipped(
        self, matrices: tuple[Tensor, ...], plain: tuple[Tensor, ...], lr: Any
    ) -> tuple[Tensor, ...]:
        """V times min(1, sqrt(kl_clip / (lr^2 sum <V, D>))), KFAC's clip.

        Layers that keep the plain gradient have no part in it: they are not in the sum, and stay as
        they are.

        Args:
            matrices: V of every group.
            plain: D, the gradients, likewise.
            lr: the learning rate, or one for every parameter.

        Returns:
            Matrices of the same shapes.
        """
        products = self.map(inner, self.group_layers, matrices, plain)
        if self.is_group_lr:
            rates = self.map(ops.partial(squared_rates, lr), self.group_weights)
            overlaps = joined(self.map(product, rates, products))
        else:
            overlaps = lr * lr * joined(products)
        ready = joined(self.map(call, self.ready_each))
        if self.some_plain:
            ready = ops.logical_and(ready, self.directed_layers)
        overlap = total(ops.where(ready, overlaps, 0.0))
        nu = ops.minimum(1.0, ops.sqrt(self.kl_clip / ops.maximum(overlap, 1e-30)))
        factors = ops.where(ready, nu, 1.0)
        scale = ops.partial(times_each, factors)
        return self.map(scale, matrices, self.group_starts, self.group_layers)
