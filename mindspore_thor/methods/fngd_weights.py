"""FNGD: the natural gradient as a weighted sum of per-sample gradients (methods section 2).

With U = [u_1 .. u_N], F = U U^T / N and K = U^T U, Woodbury's identity gives
(F + lam I)^-1 gbar = U c with c = (N lam I + K)^-1 1. Only N coefficients a layer are needed, and
they are applied by weighting samples in the ordinary weight gradient.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, ops

from mindspore_thor.capture.direct import DirectRule
from mindspore_thor.curvature.direct import DirectCurvature
from mindspore_thor.curvature.group import META
from mindspore_thor.curvature.outcomes import counted
from mindspore_thor.curvature.state import StateRows, state
from mindspore_thor.errors import UserError
from mindspore_thor.graph.kind import GraphKind
from mindspore_thor.graph.operators import (
    ADD,
    ASSIGN,
    ASSIGN_ADD,
    CAST,
    CONCAT0,
    DIV,
    GATHER,
    GREATER,
    MAXIMUM,
    MUL,
    SELECT,
    SQRT,
    SUB,
    ZEROS_LIKE,
)
from mindspore_thor.graph.slices import column_shape, part, part_or_all
from mindspore_thor.layers.rows import Rows
from mindspore_thor.linalg.device import weighs_input
from mindspore_thor.linalg.inverse import damped_inverse
from mindspore_thor.linalg.sums import MAX, SUM
from mindspore_thor.methods.fngd_gram import SampleGram

_ACROSS = ops.MatMul(transpose_b=True)
_TINY = 1e-30


@ops.constexpr
def _checked_rows(layer: str, rows: int, samples: int) -> int:
    if rows != samples:
        raise UserError(
            f"layer {layer} sees {rows} rows, but FNGD stores coefficients for {samples} sample(s) "
            f"a batch: give batch_size={rows} if that is the batch, else keep the samples as the "
            "layer's first axis, or use share='none'"
        )
    return rows


def sample_weights(gram: Tensor, alpha: float, absorb_scale: bool) -> tuple[Tensor, Tensor]:
    """w_n = N c_n for lam = alpha ||K||_F.

    Args:
        gram: K, float32 [N, N].
        alpha: relative damping (Eq. 14).
        absorb_scale: multiply by lam, which leaves a scale-free w with w = 1 as alpha grows.

    Returns:
        w [N] and whether the solve succeeded; where it failed w = 1, the plain gradient.
    """
    n = gram.shape[0]
    # Scaled to norm one first: neither the square in the norm nor the inverse can overflow.
    largest = MAXIMUM(MAX(gram.reshape((-1,)), 0), _TINY)
    gram = gram / largest
    norm = MAXIMUM(SQRT(SUM(MUL(gram, gram).reshape((-1,)), 0)), _TINY)
    inverse, ok = damped_inverse(gram / (norm * n), alpha)
    weights = alpha * SUM(inverse, 1)
    if not absorb_scale:
        weights = weights / ops.maximum(alpha * norm * largest, _TINY)
    return ops.where(ok, weights, ops.ones_like(weights)), ok


class WeightingRule(DirectRule):
    """Backward rule: coefficients from K, and the weight gradient of weighted samples.

    The statistics are the N weights, then (1, whether the solve failed, N).

    Args:
        rows: the layer's geometry.
        has_bias: whether the bias is part of u_n.
        inverse_scale: what undoes the loss scale.
        layer: the layer's name, for messages.
        alpha: relative damping.
        absorb_scale: see :func:`sample_weights`.
        stores: whether weights are stored for later epochs.
        memory: bytes for the Gram matrix's chunks.
    """

    def __init__(
        self,
        rows: Rows,
        has_bias: bool,
        inverse_scale: float,
        layer: str,
        alpha: float,
        absorb_scale: bool,
        stores: bool,
        memory: int,
    ) -> None:
        super().__init__(rows, has_bias, inverse_scale)
        self.layer = layer
        self.alpha = alpha
        self.absorb_scale = absorb_scale
        self.stores = stores
        self.gram = SampleGram(rows, memory)

    def samples(self, x: Tensor, state: tuple[Tensor, ...]) -> int:
        """N; refuses a layer whose rows are not the samples that weights are stored for."""
        if self.stores:
            return _checked_rows(self.layer, x.shape[0], state[0].shape[0])
        return x.shape[0]

    def construct(self, x: Tensor, out: Tensor, dout: Tensor, state: tuple[Tensor, ...]) -> Tensor:
        """K, its solve, and the fresh weights."""
        n = self.samples(x, state)
        gram = self.gram(CAST(x, ms.float32), self.rows.output_columns(dout))
        if self.has_bias:
            sums = MUL(self.per_sample_sums(dout), n)
            gram = ADD(gram, _ACROSS(sums, sums))
        weights, ok = sample_weights(gram, self.alpha, self.absorb_scale)
        failed = 1.0 - CAST(ok, ms.float32).reshape((1,))
        return CONCAT0((weights, Tensor([1.0], ms.float32), failed, Tensor([n], ms.float32)))

    def idle(self, x: Tensor, state: tuple[Tensor, ...]) -> Tensor:
        """The stored weights, marked as not collected."""
        return CONCAT0((self.stored(x, state), ops.zeros((META,), ms.float32)))

    def reported(self, statistics: Tensor) -> Tensor:
        """All of it where weights are stored, else only how the solve went."""
        return statistics if self.stores else part(statistics, statistics.shape[0] - META, META)

    def derived(self, x: Tensor, statistics: Tensor) -> Tensor:
        """The fresh weights [N]."""
        return part_or_all(statistics, 0, x.shape[0])

    def stored(self, x: Tensor, state: tuple[Tensor, ...]) -> Tensor:
        """The weights of this slot [N]."""
        n = self.samples(x, state)
        return part_or_all(state[0], 0, n) if self.stores else ops.ones((n,), ms.float32)

    def weigh(self, values: Tensor, weights: Tensor) -> Tensor:
        """Every sample times its weight, on the first axis."""
        return MUL(values, CAST(weights, values.dtype).reshape(column_shape(values.shape)))

    def gradients(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        dout: Tensor,
        weights: Tensor,
        unscale: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """sum_n w_n dL/dW of sample n, and the same of the bias."""
        # The gradient is bilinear: it does not matter which side is weighted.
        if weighs_input(x.size, dout.size):
            dweight = self.weight_gradient(self.weigh(x, weights), weight, dout)
        else:
            dweight = self.weight_gradient(x, weight, self.weigh(dout, weights))
        if not self.has_bias:
            return dweight, ZEROS_LIKE(bias)
        return dweight, SUM(self.weigh(self.per_sample_sums(dout), weights), 0)


class SampleWeights(DirectCurvature):
    """One layer's coefficients: computed in the first epoch, then taken from the store.

    The store is [slots, N], filled with ones (the plain gradient) until a slot is computed.

    Args:
        name: prefix of the parameters' names.
        layer: the layer's name, for messages.
        rows: the layer's geometry.
        graph: what the graph being compiled is for.
        share: "slot", "last", "mean" or "none".
        slots: batches per epoch; only "slot" stores one row for each.
        slot: int32 scalar parameter, the number of this step's batch in its epoch.
        alpha: relative damping.
        absorb_scale: see :func:`sample_weights`.
        memory: bytes for the Gram matrix's chunks.
        batch_size: N, where it is known yet; else :meth:`resize` tells it.
    """

    # Every rank solves for its own samples: nothing travels but the gradient.
    shared = False

    def __init__(
        self,
        name: str,
        layer: str,
        rows: Rows,
        graph: GraphKind,
        share: str,
        slots: int,
        slot: Tensor,
        alpha: float,
        absorb_scale: bool,
        memory: int,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(name, 0, graph)
        self.own_counts = state(np.zeros((1, 4), np.int32), f"{name}.counts")
        self.captures = True
        # With nothing to store batches of any size may come.
        self.end = 0 if share == "none" else batch_size or 1
        self.size = self.end + META
        self.make_probes(name)
        self.rows = rows
        self.share = share
        self.slots = slots if share == "slot" else 1
        self.slot = slot
        self.settings = (layer, alpha, absorb_scale, share != "none", memory)
        if share != "none":
            shape = (self.slots if batch_size else 1, self.end)
            self.store = state(np.ones(shape, np.float32), f"{name}.weights")
        if share == "mean":
            self.filled = state(np.zeros((1,), np.float32), f"{name}.filled")

    def resize(self, batch_size: int) -> None:
        """Make room for batches of this size; forgets what is stored."""
        self.end = batch_size
        self.size = batch_size + META
        (probe,) = self.probes
        probe.set_data(Tensor(np.zeros(self.size, np.float32)), slice_shape=True)
        store = Tensor(np.ones((self.slots, batch_size), np.float32))
        self.store.set_data(store, slice_shape=True)

    def make_probes(self, name: str) -> None:
        """One probe; with a value, because it has to grow to the batch's size."""
        probe = Parameter(Tensor(np.zeros(self.size, np.float32)), name=f"{name}.probe0")
        self.probes = ParameterTuple([probe])

    def make_direct_rule(self, has_bias: bool, inverse_scale: float) -> WeightingRule:
        """The rule that solves for the weights and applies them."""
        return WeightingRule(self.rows, has_bias, inverse_scale, *self.settings)

    def ready_layers(self) -> np.ndarray:
        """The layer, where its weights were computed at least once."""
        return self.counts.asnumpy()[:, [0, 2]].sum(1) > 0

    @property
    def counts(self) -> StateRows:
        """What became of the solves: they are made, and counted, in the backward pass."""
        return StateRows(self.own_counts, 0, 1)

    def rank_state(self) -> tuple[Parameter, ...]:
        """The stored weights."""
        return () if self.share == "none" else (self.store,)

    def capture_state(self, layer: int, flag: Tensor) -> tuple[Tensor, ...]:
        """This slot's stored weights [N]; the other three are not used."""
        if self.share == "none":
            return flag, flag, flag, flag
        if self.share == "slot":
            return GATHER(self.store, self.slot, 0), flag, flag, flag
        return self.store.reshape((-1,)), flag, flag, flag

    def collect(self, fresh: Tensor) -> bool:
        """Store the weights of this step, averaged over the layer's uses in this pass."""
        n = self.end
        uses = part(fresh, n, 1, 1)
        used = GREATER(uses, 0.0)
        if self.share != "none":
            self.keep(DIV(part(fresh, 0, n, 1), MAXIMUM(uses, 1.0)), used)
        solved = CAST(used, ms.int32)
        failed = MUL(solved, CAST(GREATER(part(fresh, n + 1, 1, 1), 0.0), ms.int32))
        accepted = SUB(solved, failed)
        ASSIGN(self.own_counts, counted(self.own_counts, accepted, ZEROS_LIKE(failed), failed))
        return True

    def keep(self, weights: Tensor, used: Tensor) -> None:
        """Store the weights [1, N] of one step if the layer was used in it, [1, 1]."""
        if self.share == "slot":
            row = self.slot.reshape((1,))
            weights = SELECT(used, weights, GATHER(self.store, row, 0))
            ops.scatter_update(self.store, row, weights)
        elif self.share == "last":
            ASSIGN(self.store, SELECT(used, weights, self.store))
        else:
            more = CAST(used, ms.float32)
            filled = self.filled.reshape((1, 1))
            share = DIV(more, MAXIMUM(ADD(filled, more), 1.0))
            ASSIGN(self.store, ADD(self.store, MUL(SUB(weights, self.store), share)))
            ASSIGN_ADD(self.filled, more.reshape((1,)))
