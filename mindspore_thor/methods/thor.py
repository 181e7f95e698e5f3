"""THOR's treatment of embeddings and LayerNorm (methods section 0, read in MindSpore's THOR)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindspore_thor.curvature.group import GroupCurvature, where_good
from mindspore_thor.curvature.state import state
from mindspore_thor.graph.shared import Maker
from mindspore_thor.graph.slices import part
from mindspore_thor.layers.coverage import CoveredLayer
from mindspore_thor.layers.layer_type import Form
from mindspore_thor.layers.rows import TableRows
from mindspore_thor.layers.tokens import real_positions
from mindspore_thor.linalg.blocks import block_layout
from mindspore_thor.linalg.inverse import INVERSE
from mindspore_thor.linalg.moments import block_moments
from mindspore_thor.linalg.sums import SUM
from mindspore_thor.methods.inverse_factors import InverseFactors
from mindspore_thor.methods.trace_rule import TraceRule
from mindspore_thor.optim.base import Schedule, SecondOrder
from mindspore_thor.optim.checks import check_choice, check_count
from mindspore_thor.optim.intervals import IntervalLike


class EmbeddingRule(nn.Cell):
    """Backward rule of an embedding: diagonal A and full G as one float32 vector."""

    def __init__(self, rows: TableRows) -> None:
        super().__init__()
        self.rows = rows
        self.layout = block_layout(rows.d_out, None)

    def construct(self, ids: Tensor, out: Tensor, dout: Tensor, state: Tensor) -> Tensor:
        """Token ids and the gradient of the looked-up rows -> statistics."""
        # Sums over the looked-up rows, whose number stands in the place of the positions: several
        # look-ups add up to one of all their ids.
        g = block_moments(self.rows.output_columns(dout), self.layout, 1)
        if len(ids.shape) == 1:
            meta = Tensor([1.0, ids.shape[0], self.rows.samples(ids)], ms.float32)
            return ops.concat((self.rows.counts(ids), g.reshape(-1), meta))
        real = real_positions(dout)
        rows = SUM(real.reshape((1, -1)), 1)
        one, samples = Tensor([1.0], ms.float32), Tensor([self.rows.samples(ids)], ms.float32)
        return ops.concat((self.rows.counts(ids, real), g.reshape(-1), one, rows, samples))


class EmbeddingCurvature(GroupCurvature):
    """V = (1 / (A + sqrt(lam)))[:, None] * D @ (G + sqrt(lam) I)^-1, G never split.

    A is the diagonal of token counts / N, G the mean of g g^T over the looked-up rows with
    g = N dL/ds.

    Args:
        name: prefix of the parameters' names.
        layers: L.
        rows: the layers' geometry.
    """

    solver = INVERSE

    def __init__(self, name: str, layers: int, rows: TableRows) -> None:
        vocab, size = rows.d_in, rows.d_out
        super().__init__(name, layers, vocab + size * size)
        self.rows = rows
        self.scale_a = state(np.ones((layers, vocab, 1), np.float32), f"{name}.inverse_a")
        eye = np.broadcast_to(np.eye(size, dtype=np.float32), (layers, size, size)).copy()
        self.inverse_g = state(eye, f"{name}.inverse_g")

    def make_rule(self, make: Maker, rows: TableRows) -> nn.Cell:
        """Counts and G from one backward pass."""
        return make(EmbeddingRule, rows)

    def gradient_part(self) -> tuple[int, int]:
        """G."""
        return self.rows.d_in, self.rows.d_out**2

    def averaged(self, fresh: Tensor) -> Tensor:
        """Counts of all look-ups together, and G as the mean over all their rows."""
        uses = ops.maximum(part(fresh, self.end, 1, 1), 1.0)
        rows = part(fresh, self.end + 1, 1, 1)
        counts = part(fresh, 0, self.rows.d_in, 1)
        g = part(fresh, self.rows.d_in, self.rows.d_out**2, 1) / ops.maximum(rows, 1.0)
        samples = part(fresh, self.end + 2, 1, 1) / uses
        return ops.concat((counts, g, ops.ones_like(uses), rows, samples), 1)

    def symmetric(self) -> tuple[tuple[int, int, int], ...]:
        """G, behind the counts."""
        return ((self.rows.d_in, 1, self.rows.d_out),)

    def stacks(self) -> tuple[tuple[int, int], ...]:
        """G alone."""
        return ((1, self.rows.d_out),)

    def problems(self, damping: Tensor) -> tuple[Tensor, ...]:
        """G with sqrt(lam)."""
        vocab, size = self.rows.d_in, self.rows.d_out
        g = part(self.statistics, vocab, size * size, 1).reshape((-1, size, size))
        return g, ops.sqrt(damping) * ops.ones((self.layers,), ms.float32)

    def derived(self) -> tuple[Parameter, ...]:
        """The inverses of G and of A's diagonal."""
        return self.inverse_g, self.scale_a

    def install(
        self, good: Tensor, damping: Tensor, solutions: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Take the inverse of G, and with it that of A's diagonal."""
        scale = 1.0 / (part(self.statistics, 0, self.rows.d_in, 1) + ops.sqrt(damping))
        return where_good(good, (solutions[0], scale), (self.inverse_g, self.scale_a))

    def precondition(self, matrix: Tensor, damping: Tensor) -> Tensor:
        """[L, vocab, size] -> the same shape."""
        return ops.bmm(self.scale_a * matrix, self.inverse_g)


class LayerNormCurvature(GroupCurvature):
    """d = D / (D * D / N + sqrt(lam)), elementwise on gamma and beta; nothing is stored.

    Args:
        name: prefix of the parameters' names.
        layers: L.
        samples: int32 parameter with the batch size N of the latest step.
    """

    def __init__(self, name: str, layers: int, samples: Tensor) -> None:
        super().__init__(name, layers, 0)
        self.samples = samples

    def ready(self) -> Tensor:
        """Nothing has to be collected."""
        return ops.ones((self.layers,), ms.bool_)

    def ready_layers(self) -> np.ndarray:
        """The same on the host."""
        return np.ones((self.layers,), bool)

    def precondition(self, matrix: Tensor, damping: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        return matrix / (matrix * matrix / ops.cast(self.samples, ms.float32) + ops.sqrt(damping))


DAMPING_MODES = ("sqrt", "paper", "pi")


class THOR(SecondOrder):
    """W <- W - lr (G + d_G I)^-1 D (A + d_A I)^-1 with block-diagonal factors and the trace rule.

    Linear layers (Dense, Conv1d, Conv2d with padding, stride, dilation and groups, Conv3d) have
    Kronecker factors; Embedding a diagonal A; LayerNorm an elementwise rule; biases and everything
    else the plain gradient.
    Factors are not averaged over time (methods section 1.1).

    Args:
        net: the network, changed in place so that its layers can capture.
        learning_rate: number, list, or MindSpore schedule.
        damping: lam > 0, a number or a schedule (Eq. 15).
        momentum: heavy-ball coefficient in [0, 1).
        weight_decay: added to the preconditioned gradient of parameters with >= 2 dimensions.
        split_dim: block size s for A and G (Eq. 10); None for whole factors.
        factor_interval: steps between two collections of A and G: a number, a function
            step -> interval, or milestones [(0, interval), (step, interval), ...]. They are not
            averaged: what is collected between two refreshes is never used, so that an interval
            below ``inverse_interval`` takes time and changes no weight, where it divides that.
        inverse_interval: steps between two evaluations of the trace rule, likewise.
        trace_thresholds: (w1, w2): (0.01, 0) is THOR, (0.01, 0.001) THOR_stop, (0, 0) THOR_NT.
        damping_mode: "sqrt" adds sqrt(lam/T) to both factors (MindSpore's code), "paper" lam/T to
            both (Eq. 6), "pi" splits sqrt(lam/T) by the factors' mean traces.
        trace_include_damping: whether lam counts in the trace (the paper's Eq. 8). Where lam is far
            above the factors the trace is lam d_in d_out alone, and the rule keeps inverses
            whatever the factors do (models/autoencoder/README.md): give False there. ``train.py``
            shows how many it kept.
        trace_form: "literal" or "product", see TraceRule.
        trace_baseline: "accepted" compares with the last accepted trace, "previous" with the
            previous candidate.
        batch_size: N for LayerNorm's rule where no TrainStep supplies it: needed in a plain
            ``Model(net, loss_fn, optimizer)`` with LayerNorm layers.
        **options: see :class:`~mindspore_thor.optim.base.SecondOrder`.

    Raises:
        UserError: for values out of range.
    """

    supported = (Form.LINEAR, Form.LOOK_UP, Form.ELEMENTWISE)

    def __init__(
        self,
        net: nn.Cell,
        learning_rate: Any,
        damping: Schedule = 0.03,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        split_dim: int | None = 128,
        factor_interval: IntervalLike = 1,
        inverse_interval: IntervalLike = 1,
        trace_thresholds: tuple[float, float] = (0.01, 0.0),
        damping_mode: str = "sqrt",
        trace_include_damping: bool = True,
        trace_form: str = "literal",
        trace_baseline: str = "accepted",
        batch_size: int | None = None,
        **options: Any,
    ) -> None:
        if split_dim is not None:
            check_count("split_dim", split_dim)
        self._split_dim = split_dim
        if batch_size is not None:
            check_count("batch_size", batch_size)
        self._damping_mode = check_choice("damping_mode", damping_mode, DAMPING_MODES)
        check_choice("trace_baseline", trace_baseline, ("accepted", "previous"))
        previous = trace_baseline == "previous"
        rule = TraceRule(trace_thresholds, trace_include_damping, trace_form, previous)
        # Past the cell's registry, which is not there before its own constructor ran.
        object.__setattr__(self, "rule", rule)
        super().__init__(
            net,
            learning_rate,
            label="thor",
            damping=damping,
            momentum=momentum,
            weight_decay=weight_decay,
            factor_interval=factor_interval,
            inverse_interval=inverse_interval,
            **options,
        )
        if batch_size is not None:
            self.samples.set_data(ops.full_like(self.samples, batch_size))
        else:
            self.needs_samples = any(isinstance(g, LayerNormCurvature) for g in self.groups)

    def build_group(self, name: str, layers: Sequence[CoveredLayer]) -> GroupCurvature:
        """Blocks with a trace rule; the diagonal rules for embeddings and LayerNorm."""
        form = layers[0].type.form
        if form is Form.ELEMENTWISE:
            return LayerNormCurvature(name, len(layers), self.samples)
        if form is Form.LOOK_UP:
            return EmbeddingCurvature(name, len(layers), layers[0].table)
        return InverseFactors(
            name,
            len(layers),
            layers[0].linear,
            False,
            self._split_dim,
            0.0,
            self._damping_mode,
            self.trace_rule(),
        )

    def trace_rule(self) -> TraceRule:
        """The same for all groups, so that it is compiled once."""
        return self.rule
