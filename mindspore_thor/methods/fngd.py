"""FNGD: natural gradient by weighted samples, with shared coefficients (arXiv 2403.03473)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindspore_thor.curvature.group import GroupCurvature
from mindspore_thor.curvature.state import state
from mindspore_thor.errors import UserError
from mindspore_thor.graph.operators import SECTION
from mindspore_thor.layers.coverage import CoveredLayer
from mindspore_thor.methods.fngd_weights import SampleWeights
from mindspore_thor.optim.base import SecondOrder
from mindspore_thor.optim.checks import check_choice, check_count, check_number

NEVER = 2**31 - 1
MIB = 2**20


class FNGD(SecondOrder):
    """W <- W - lr sum_n c_n u_n, the damped natural gradient of one batch (methods section 2).

    In the first epoch every step computes each layer's N coefficients from the Gram matrix K of
    its per-sample gradients, with lam = alpha ||K||_F; later epochs only reuse them as weights on
    the samples of the ordinary weight gradient. Dense (tokens are positions of one sample) and
    Conv2d are covered, a bias together with its weight; where a subclass has its own ``construct``
    the bias keeps its plain gradient. Norm layers and embeddings: plain gradient.

    The paper's equations were not readable as text: those here were derived from its prose. It
    does not say which norm of K the damping uses (here the raw K), nor the learning rate.

    A layer that is used several times in one forward pass gets coefficients for every use, and
    their mean from the second epoch on.

    Args:
        net: the network, changed in place so that its layers can capture.
        learning_rate: number, list, or MindSpore schedule.
        alpha: relative damping above 0 (Eq. 14). Because ||K||_2 <= ||K||_F = lam / alpha, no
            component of the gradient gets shorter than 1 / (1 + 1 / (alpha N)) of its length: 0.56
            for alpha = 0.01 and N = 128, so that FNGD stays near SGD with weighted samples.
        momentum: heavy-ball coefficient in [0, 1).
        weight_decay: added to the gradient of parameters with >= 2 dimensions.
        share: "slot" reuses the coefficients of the same batch number of the first epoch, "last"
            those of its last step, "mean" their mean over the first epoch, "none" computes new
            ones in every step (the full natural gradient).
        absorb_scale: leave out the factor 1 / lam of (F + lam I)^-1, as the paper does: the
            coefficients then lie near 1 / N and the learning rate is that of SGD.
        steps_per_epoch: batches in an epoch; needed unless ``share="none"``.
        batch_size: samples in every batch; learned from the first batch where it is not given.
            Needed to restore a state before the first step, and in a training cell other than
            :class:`~mindspore_thor.step.train_step.TrainStep`.
        gram_memory: MiB that the patches, per-sample gradients and products of K may take at a
            time (but at least one sample or input channel is handled at a time).
        **options: see :class:`~mindspore_thor.optim.base.SecondOrder`.

    Raises:
        UserError: for values out of range, or a missing ``steps_per_epoch``.
    """

    without = ("token_mode", "max_failures", "inverse_share", "kl_clip")
    own_token_mode = "share"
    needs_whole_batch = "its Gram matrix needs the whole batch at once"

    def __init__(
        self,
        net: nn.Cell,
        learning_rate: Any,
        alpha: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        share: str = "slot",
        absorb_scale: bool = True,
        steps_per_epoch: int | None = None,
        batch_size: int | None = None,
        gram_memory: float = 256,
        **options: Any,
    ) -> None:
        self._share = check_choice("share", share, ("slot", "last", "mean", "none"))
        if share == "none":
            self._slots, self.first_epoch = 1, NEVER
        elif steps_per_epoch is None:
            raise UserError(
                f"share={share!r} needs steps_per_epoch: give the number of batches in an epoch, "
                "or use share='none'"
            )
        else:
            self._slots = self.first_epoch = check_count("steps_per_epoch", steps_per_epoch)
        memory = int(check_number("gram_memory", gram_memory, 0.0, open_low=True) * MIB)
        self._settings = (
            check_number("alpha", alpha, 0.0, open_low=True),
            bool(absorb_scale),
            memory,
        )
        # Known from the start, the probes are made of their final size: MindSpore's PyNative mode
        # goes by the shape that a parameter was made with.
        self._batch: int | None = None
        if batch_size is not None:
            check_count("batch_size", batch_size)
            self._batch = None if share == "none" else batch_size
        super().__init__(
            net,
            learning_rate,
            label="fngd",
            damping=1.0,  # not used: the damping follows K
            momentum=momentum,
            weight_decay=weight_decay,
            **options,
        )
        self.slots = self._slots
        # Nothing is derived between steps.
        self.next_inverse.set_data(Tensor(NEVER, ms.int32))

    def _cover(self, net: nn.Cell, label: str, token_mode: str) -> None:
        self.slot = state(np.zeros((), np.int32), f"{label}.{self.weights[0].name}.slot")
        super()._cover(net, label, token_mode)

    def group_key(self, layer: CoveredLayer) -> Hashable:
        """Every layer by itself: its coefficients are used in its own backward pass."""
        return layer.name

    def build_group(self, name: str, layers: Sequence[CoveredLayer]) -> GroupCurvature:
        """The coefficients of one layer."""
        alpha, absorb_scale, memory = self._settings
        return SampleWeights(
            name,
            layers[0].name,
            layers[0].linear,
            self.graph,
            self._share,
            self._slots,
            self.slot,
            alpha,
            absorb_scale,
            memory,
            self._batch,
        )

    def expect_batch(self, batch_size: int) -> None:
        """Make room for the coefficients at the first batch; later ones must be of its size.

        Raises:
            UserError: where the batch size changes.
        """
        if self._share == "none" or batch_size == self._batch:
            return
        if self._batch is not None:
            raise UserError(
                f"a batch of {batch_size} samples after batches of {self._batch}: FNGD reuses one "
                "coefficient per sample, so drop the last incomplete batch (drop_remainder=True), "
                "or use share='none'"
            )
        self._batch = batch_size
        for group in self.groups:
            group.resize(batch_size)

    def collect(self, gradients: tuple[Tensor, ...]) -> bool:
        """Store this step's coefficients, which stand behind the gradients of the weights."""
        return self.collect_probes(SECTION(gradients, self.probes_section))

    def advance(self) -> bool:
        """Count the step; the first epoch, and that alone, computes coefficients."""
        self.assignadd(self.global_step, self.global_step_increase_tensor)
        step = self.step_number()
        first = step < self.first_epoch
        ops.assign(self.due, ops.cast(first, ms.int32))
        ops.assign(self.next_factor, ops.where(first, step, ops.full_like(step, NEVER)))
        ops.assign(self.slot, step % self.slots)
        return True  # see GroupCurvature.collect
