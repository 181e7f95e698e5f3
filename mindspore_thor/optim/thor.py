"""THOR: trace-based, hardware-driven layer-wise natural gradient (Chen et al., AAAI 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mindspore import nn, ops

from mindspore_thor.curvature.base import GroupCurvature
from mindspore_thor.curvature.diagonal import EmbeddingCurvature, LayerNormCurvature
from mindspore_thor.curvature.inverse_factors import InverseFactors
from mindspore_thor.curvature.trace_rule import TraceRule
from mindspore_thor.nn import CoveredLayer
from mindspore_thor.optim.base import Schedule, SecondOrder
from mindspore_thor.optim.checks import check_choice, check_count
from mindspore_thor.optim.intervals import IntervalLike

DAMPING_MODES = ("sqrt", "paper", "pi")


class THOR(SecondOrder):
    """W <- W - lr (G + d_G I)^-1 D (A + d_A I)^-1 with block-diagonal factors and the trace rule.

    Dense and Conv2d (with padding, stride, dilation and groups) have Kronecker factors; Embedding
    a diagonal A; LayerNorm an elementwise rule; biases and everything else the plain gradient.
    Factors are not averaged over time (methods section 1.1).

    Args:
        net: the network, changed in place so that its layers can capture.
        learning_rate: number, list, or MindSpore schedule.
        damping: lam > 0, a number or a schedule (Eq. 15).
        momentum: heavy-ball coefficient in [0, 1).
        weight_decay: added to the preconditioned gradient of parameters with >= 2 dimensions.
        split_dim: block size s for A and G (Eq. 10); None for whole factors.
        factor_interval: steps between two collections of A and G: a number, a function
            step -> interval, or milestones [(0, interval), (step, interval), ...].
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

    supported = (nn.Dense, nn.Conv2d, nn.Embedding, nn.LayerNorm)

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
        self._rule_options = (
            trace_thresholds,
            trace_include_damping,
            trace_form,
            trace_baseline == "previous",
        )
        TraceRule(*self._rule_options)
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
        if layers[0].base is nn.LayerNorm:
            return LayerNormCurvature(name, len(layers), self.samples)
        rows = layers[0].rows
        assert rows is not None
        if layers[0].base is nn.Embedding:
            return EmbeddingCurvature(name, len(layers), rows)
        if not hasattr(self, "rule"):
            # One for all groups, so that it is compiled once.
            self.rule = TraceRule(*self._rule_options)
        return InverseFactors(
            name, len(layers), rows, False, self._split_dim, 0.0, self._damping_mode, self.rule
        )
