"""LNGD: layer-wise natural gradient descent (NeurIPS 2024)."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from mindspore import Tensor, nn, ops

from mindspore_thor.capture.attach import owns_bias
from mindspore_thor.curvature.group import GroupCurvature
from mindspore_thor.errors import UserError
from mindspore_thor.layers.activation import activation_of, find_activations
from mindspore_thor.layers.coverage import CoveredLayer
from mindspore_thor.methods.lngd_sample import LayerSample, LayerSampleSettings
from mindspore_thor.optim.base import SecondOrder
from mindspore_thor.optim.checks import check_choice, check_count, check_number
from mindspore_thor.optim.intervals import IntervalLike


@ops.constexpr
def _refuse_other_cells() -> None:
    raise UserError(
        "LNGD measures its factors in a forward pass before the step: train it with "
        "mindspore_thor.TrainStep(net, loss_fn, optimizer), which ms.Model takes as its network"
    )


class LNGD(SecondOrder):
    """W <- W - lr alpha_l Psi^-1 D Phi^-1 with factors from layer-wise samples (methods section 3).

    Dense (tokens are positions of one sample) and Conv2d are covered, a bias together with its
    weight. The paper does not treat other layers: they keep the plain gradient. Momentum holds the
    learning rate inside, m <- momentum * m + lr * alpha_l * d, as the paper's algorithm does.

    The derivative phi' of a layer's activation is taken from the ``activation`` of ``nn.Dense`` or
    from the next cell of a ``SequentialCell``, and is 1 otherwise (a BatchNorm or a sum in between,
    a network with its own ``construct``); ``layer_report()`` says what was assumed. The paper does
    not say what it does there.

    A step that collects passes over its batch once more, forward only, before the ordinary pass
    (with ``gradients="true"`` forward and backward); where inverses are due they are made in
    between, so at intervals of 1 every step is exact. It therefore trains in a ``TrainStep`` only.
    Where tokens are, that pass is forward and backward, too: padding, which must have no sample, is
    told from the gradients.

    A layer that is used several times in one forward pass has the average of the uses' factors,
    and each use's part of the gradient gets a direction and a rate of its own.

    Where the float32 Phi is too ill conditioned for its damping, a second attempt has at least
    1e-5 of its trace.

    Args:
        net: the network, changed in place so that its layers can capture.
        learning_rate: number, list, or MindSpore schedule.
        momentum: heavy-ball coefficient in [0, 1).
        weight_decay: added to the direction of parameters with >= 2 dimensions (the paper gives
            0.004 and not where it enters).
        sampling: "gaussian" draws eps, "analytic" takes the expectation over it.
        gradients: "sampled", or "true" for the gradients of the loss (the paper's LNGD-lr).
        adaptive_rate: False sets alpha_l = 1 (the paper's LNGD-sample); so does ``grafting``, which
            is another way to choose lengths, and leaves out the pass that d^T F d takes.
        fisher: d^T F d as the mean over samples of (d^T u_n)^2, "per_sample", or <d, grad>^2,
            "batch", which costs nothing and is what one published port does.
        rate_samples: the mean over samples takes the first so many of the batch, which saves time
            where "per_sample" costs another forward pass; None for all. Several ranks take equal
            parts of that number from their shares.
        mu: added to d^T F d. The paper does not give it. d^T F d goes with the fourth power of the
            gradients, 1e-9 to 1e-6 in a ResNet's convolutions at first, so that a port's 1e-3 all
            but stops these layers; 1e-9 to 1e-5 train it equally well (models/resnet/README.md).
            With 0 the rates do not depend on the factors' scale, but layers with tiny gradients
            take large steps.
        nu1: lower bound of the damping clip(trace / dimension, nu1, nu2).
        nu2: upper bound of it.
        ema_old_weight: weight of the OLD factors in their moving average, in [0, 1); the first
            update overwrites. The paper's text gives 0.95 to the old value, its formula to the new.
        factor_interval: steps between two collections of Phi and psi.
        inverse_interval: steps between two inversions.
        seed: of the samples; with the step's number it determines them.
        **options: see :class:`~mindspore_thor.optim.base.SecondOrder`.

    Raises:
        UserError: for values out of range.
    """

    without = ("token_mode", "kl_clip")
    own_token_mode = "share"
    measures_first = True
    needs_whole_batch = "its rates need every sample's gradient beside the whole batch's"
    rate_inside_momentum = True

    def __init__(
        self,
        net: nn.Cell,
        learning_rate: Any,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        sampling: str = "gaussian",
        gradients: str | bool = "sampled",
        adaptive_rate: bool = True,
        fisher: str = "per_sample",
        rate_samples: int | None = None,
        mu: float = 1e-7,
        nu1: float = 1e-5,
        nu2: float = 1e-2,
        ema_old_weight: float = 0.95,
        factor_interval: IntervalLike = 1,
        inverse_interval: IntervalLike = 1,
        seed: int = 0,
        **options: Any,
    ) -> None:
        bounds = (
            check_number("nu1", nu1, 0.0, open_low=True),
            check_number("nu2", nu2, 0.0, open_low=True),
        )
        if bounds[0] > bounds[1]:
            raise UserError(f"nu1={nu1} is above nu2={nu2}: give nu1 <= nu2")
        if check_number("ema_old_weight", ema_old_weight, 0.0) >= 1:
            raise UserError(f"ema_old_weight={ema_old_weight}: give a number in [0, 1)")
        if gradients is True:  # what YAML makes of an unquoted true
            gradients = "true"
        self._settings = LayerSampleSettings(
            check_choice("sampling", sampling, ("gaussian", "analytic")) == "gaussian",
            check_choice("gradients", gradients, ("sampled", "true")) == "true",
            bool(adaptive_rate) and options.get("grafting") is None,
            check_choice("fisher", fisher, ("per_sample", "batch")) == "per_sample",
            0 if rate_samples is None else check_count("rate_samples", rate_samples),
            check_number("mu", mu, 0.0),
            bounds,
            float(ema_old_weight),
        )
        self._seed = check_count("seed", seed, 0)
        super().__init__(
            net,
            learning_rate,
            label="lngd",
            damping=1.0,  # a factor: the damping follows the factors' traces
            momentum=momentum,
            weight_decay=weight_decay,
            factor_interval=factor_interval,
            inverse_interval=inverse_interval,
            **options,
        )

    def _cover(self, net: nn.Cell, label: str, token_mode: str) -> None:
        self._following = find_activations(net)
        self._notes: dict[str, str] = {}
        super()._cover(net, label, token_mode)
        for row in self._rows:
            row.reason = self._notes.get(row.layer, row.reason)
        # Its keys are addresses: kept, no compiled graph would have the same key in another run.
        self._following = {}

    def group_key(self, layer: CoveredLayer) -> Hashable:
        """Every layer by itself: its inverses are used in its own backward pass."""
        return layer.name

    def build_group(self, name: str, layers: Sequence[CoveredLayer]) -> GroupCurvature:
        """Factors and inverses of one layer, with the activation that could be told."""
        (layer,) = layers
        activation, note = activation_of(layer, self._following)
        if self._settings.true_gradients:
            activation, note = None, "gradients of the loss"
        self._notes[layer.name] = note
        key = np.array(zlib.crc32(f"{self._seed}/{layer.name}".encode()), np.uint32)
        return LayerSample(
            name,
            layer.linear,
            self.graph,
            owns_bias(layer),
            activation,
            int(key.astype(np.int32)),
            self._settings,
            self.global_step,
        )

    def construct(self, gradients: tuple[Tensor, ...]) -> None:
        """Refuse a training cell that knows no measuring pass."""
        _refuse_other_cells()
