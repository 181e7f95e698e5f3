"""Muon: momentum with all singular values made equal (Jordan et al. 2024; methods section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mindspore import Tensor, nn, ops

from mindspore_thor.curvature.group import GroupCurvature
from mindspore_thor.curvature.state import state
from mindspore_thor.layers.coverage import CoveredLayer
from mindspore_thor.layers.rows import Rows
from mindspore_thor.linalg.orthogonal import orthogonalized
from mindspore_thor.optim.base import SecondOrder
from mindspore_thor.optim.checks import check_count, check_share_of_old
from mindspore_thor.optim.exclusion import LAST, Exclude


class OrthogonalMomentum(GroupCurvature):
    """V = sqrt(max(1, d_out / d_in)) times the orthogonalized momentum of the gradients.

    m <- b m + (1 - b) D; what is orthogonalized is (1 - b) D + b m with Nesterov's momentum, else
    m. Groups of a convolution are separate matrices. Nothing is captured, and nothing refreshed.

    Args:
        name: prefix of the parameters' names.
        layers: L.
        rows: the layers' geometry.
        momentum: b.
        nesterov: see above.
        steps: of :func:`~mindspore_thor.linalg.orthogonal.orthogonalized`.
    """

    def __init__(
        self, name: str, layers: int, rows: Rows, momentum: float, nesterov: bool, steps: int
    ) -> None:
        super().__init__(name, layers, 0)
        height, width = rows.matrix
        self.momentum = momentum
        self.nesterov = nesterov
        self.steps = steps
        self.scale = max(1.0, height / width) ** 0.5
        self.every = Tensor(np.ones((layers,), bool))
        zeros = np.zeros((layers * rows.groups, height, width), np.float32)
        self.average = state(zeros, f"{name}.average")

    def ready(self) -> Tensor:
        """Every layer, boolean [L]."""
        return self.every

    def ready_layers(self) -> np.ndarray:
        """The same on the host."""
        return np.ones((self.layers,), bool)

    def precondition(self, matrix: Tensor, damping: Tensor) -> Tensor:
        """Let the gradients enter the momentum, and orthogonalize it."""
        fresh = (1.0 - self.momentum) * matrix
        average = self.momentum * self.average + fresh
        ahead = fresh + self.momentum * average if self.nesterov else average
        ops.assign(self.average, average)
        return self.scale * orthogonalized(ahead, self.steps)


class Muon(SecondOrder):
    """W <- W (1 - lr wd) - lr V, V the orthogonalized momentum of a layer's gradients.

    Weights of linear layers are matrices [d_out, d_in * kh * kw], one per group of a convolution.
    The last of them, biases, embeddings and norms are moved by ``rest``. Statistics there are none:
    steps are of one kind, and the backward pass is the plain network's. Every rank orthogonalizes
    all layers, from gradients that are equal on all.

    Args:
        net: the network; it stays as it is.
        learning_rate: number, list, or MindSpore schedule, of the layers that Muon moves; 0.02 is
            its authors' default. It is about the length of a step's singular values.
        momentum: weight of the old momentum, in [0, 1).
        nesterov: whether the gradient counts once more in what is orthogonalized.
        ns_steps: iterations of the orthogonalization.
        weight_decay: decoupled decay of parameters with >= 2 dimensions.
        rest: the rule of everything else: "adamw", "nadamw", or None for the plain gradient,
            without momentum. Its rate is ``rest_learning_rate`` (the authors' code: 3e-4 beside
            0.02); without one it is ``learning_rate``, which is mostly too large for it.
        exclude: which layers are left to ``rest``; the last one unless given.
        **options: see :class:`~mindspore_thor.optim.base.SecondOrder`.

    Raises:
        UserError: for values out of range, and names that are no covered layers.
    """

    derives = False
    collects = False
    own_momentum = True
    without = ("token_mode", "max_failures", "inverse_share", "momentum_first")

    def __init__(
        self,
        net: nn.Cell,
        learning_rate: Any,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        weight_decay: float = 0.0,
        rest: str | None = "adamw",
        exclude: Exclude = LAST,
        **options: Any,
    ) -> None:
        self._momentum = check_share_of_old("momentum", momentum)
        self._nesterov = nesterov
        self._steps = check_count("ns_steps", ns_steps)
        super().__init__(
            net,
            learning_rate,
            label="muon",
            damping=1.0,  # there is none
            momentum=momentum,
            weight_decay=weight_decay,
            rest=rest,
            exclude=exclude,
            **options,
        )

    def build_group(self, name: str, layers: Sequence[CoveredLayer]) -> GroupCurvature:
        """The momentum of the layers' matrices."""
        rows = layers[0].linear
        return OrthogonalMomentum(
            name, len(layers), rows, self._momentum, self._nesterov, self._steps
        )
