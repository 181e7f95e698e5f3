"""Shampoo: preconditioned stochastic tensor optimization (Gupta, Koren & Singer 2018)."""

from __future__ import annotations

from typing import Any

from mindspore import nn

from mindspore_thor.curvature.base import LayerCurvature
from mindspore_thor.curvature.shampoo import GradientRoots
from mindspore_thor.nn import CoveredLayer
from mindspore_thor.optim.base import SecondOrder
from mindspore_thor.optim.checks import check_choice, check_count, check_number
from mindspore_thor.optim.intervals import IntervalLike


class Shampoo(SecondOrder):
    """L^-1/4 D R^-1/4 with L and R summed up from the gradients, in blocks.

    Dense and Conv2d weights are matrices [d_out, d_in * kh * kw], one per group of a convolution;
    biases, embeddings and everything else have the plain gradient. Nothing is captured in the
    backward pass: all statistics come from the gradient.

    Args:
        net: the network; it stays as it is.
        learning_rate: number, list, or MindSpore schedule.
        epsilon: > 0, the multiple of the identity from which L and R start.
        momentum: heavy-ball coefficient in [0, 1).
        weight_decay: added to the preconditioned gradient of parameters with >= 2 dimensions.
        factor_interval: steps between two gradients that enter L and R.
        inverse_interval: steps between two computations of the roots.
        max_preconditioner_dim: larger dimensions are split into blocks of this size, the last one
            ragged; every block of the matrix has its own L and R.
        grafting: None, or "sgd" to give each layer's V the norm of its gradient.
        kl_clip: V is scaled by min(1, sqrt(kl_clip / (lr^2 sum <V, D>))); None (default) for no
            clipping.
        **options: see :class:`~mindspore_thor.optim.base.SecondOrder`.

    Raises:
        UserError: for values out of range.
    """

    observes = True

    def __init__(
        self,
        net: nn.Cell,
        learning_rate: Any,
        epsilon: float = 1e-4,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        factor_interval: IntervalLike = 1,
        inverse_interval: IntervalLike = 1,
        max_preconditioner_dim: int = 128,
        grafting: str | None = None,
        kl_clip: float | None = None,
        **options: Any,
    ) -> None:
        self._max_dim = check_count("max_preconditioner_dim", max_preconditioner_dim)
        self._graft = grafting is not None
        if grafting is not None:
            check_choice("grafting", grafting, ("sgd",))
        super().__init__(
            net,
            learning_rate,
            label="shampoo",
            damping=check_number("epsilon", epsilon, 0.0, open_low=True),
            momentum=momentum,
            weight_decay=weight_decay,
            factor_interval=factor_interval,
            inverse_interval=inverse_interval,
            kl_clip=kl_clip,
            **options,
        )

    def build_curvature(self, name: str, layer: CoveredLayer) -> LayerCurvature:
        """Sums and roots for every block of the layer's matrix."""
        assert layer.rows is not None
        return GradientRoots(name, layer.rows, self._max_dim, self._graft)
