"""LNGD: Fisher factors of layer-wise samples and a learning rate per layer (methods section 3).

F ~= E[a a^T (x) diag(g g^T)] is replaced by Phi (x) diag(psi) with Phi = E[||g||^2 a a^T] and
psi = E[||a||^2 g o g] / E[||a||^2 ||g||^2], where g = -phi'(s) o eps belongs to a sample from the
layer's own Gaussian N(phi(s), I): neither needs a backward pass through the loss. Positions of a
convolution, and tokens, are summed over.
"""

from __future__ import annotations

from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindspore_thor.capture.direct import DirectRule
from mindspore_thor.curvature.direct import DirectCurvature
from mindspore_thor.curvature.group import where_good
from mindspore_thor.curvature.state import state
from mindspore_thor.graph.kind import GraphKind
from mindspore_thor.graph.operators import (
    ADD,
    ASSIGN,
    BMM,
    CAST,
    CONCAT0,
    CONCAT1,
    CONCAT2,
    DIV,
    GREATER,
    ITEM,
    MAXIMUM,
    MINIMUM,
    MUL,
    ONES_LIKE,
    SELECT,
    SQRT,
    SUB,
    ZEROS_LIKE,
)
from mindspore_thor.graph.slices import part, part_or_all
from mindspore_thor.layers.rows import Rows
from mindspore_thor.layers.tokens import real_positions, times_rows
from mindspore_thor.linalg.blocks import block_layout
from mindspore_thor.linalg.device import narrow_type
from mindspore_thor.linalg.inverse import INVERSE
from mindspore_thor.linalg.moments import block_moments, feature_sums, weighted_means, with_ones
from mindspore_thor.linalg.random import squared_normal
from mindspore_thor.linalg.sums import SUM, SUM_KEPT, total
from mindspore_thor.methods.kronecker import trace
from mindspore_thor.parallel.communication import world

_TINY = 1e-30
FLOOR = 1e-6
"""A tenth of a second attempt's damping, as a share of tr(Phi), which bounds its eigenvalues."""


@dataclass(frozen=True)
class LayerSampleSettings:
    """What all layers of one optimizer share.

    Attributes:
        gaussian: draw eps, or else take the expectation over it.
        true_gradients: g is the gradient of the loss instead of a sample.
        adaptive_rate: multiply the direction by alpha_l; else alpha_l = 1.
        per_sample: d^T F d as the mean over samples; else <d, grad>^2.
        rate_samples: how many samples that mean is over; 0 for all.
        mu: added to d^T F d.
        bounds: (nu1, nu2), limits of the damping.
        ema_old_weight: weight of the old factors; the first collection overwrites.
    """

    gaussian: bool
    true_gradients: bool
    adaptive_rate: bool
    per_sample: bool
    rate_samples: int
    mu: float
    bounds: tuple[float, float]
    ema_old_weight: float


class LayerSampleRule(DirectRule):
    """Backward rule: the factors' numerators for the probe, and alpha_l d_l for the weights.

    The two have nothing in common but the layer's input: a graph that differentiates by probes
    alone holds no gradient, and one that differentiates by weights alone no statistics. The
    statistics are linear in the samples, so that they may be averaged before :class:`LayerSample`
    normalises them. The state is Phi^-1, psi^-1, the step's number, and
    the layer's counters.

    Args:
        rows: the layer's geometry.
        has_bias: whether a one is appended to a.
        inverse_scale: what undoes the loss scale.
        activation: phi, or None for the identity.
        key: of the layer's random numbers.
        settings: what all layers share.
    """

    keeps_apart = True

    def __init__(
        self,
        rows: Rows,
        has_bias: bool,
        inverse_scale: float,
        activation: nn.Cell | None,
        key: int,
        settings: LayerSampleSettings,
    ) -> None:
        super().__init__(rows, has_bias, inverse_scale)
        self.has_activation = activation is not None
        self.activation = activation if activation is not None else nn.Identity()
        self.slope_of = ops.GradOperation(sens_param=True)
        self.key = key
        self.gaussian = settings.gaussian
        self.true_gradients = settings.true_gradients
        self.adaptive_rate = settings.adaptive_rate
        self.per_sample = settings.per_sample
        self.rate_samples = settings.rate_samples
        self.mu = settings.mu
        self.d_in = rows.d_in + int(has_bias)
        self.layout = block_layout(self.d_in, None)
        self.rank, self.ranks = world()
        self.all_reduce = ops.AllReduce() if self.ranks > 1 else nn.Identity()
        self.size = sample_length(rows, has_bias) + 3

    # -- statistics ---------------------------------------------------------------------------

    def phi(self, s: Tensor) -> Tensor:
        """The activation; a method, because GradOperation differentiates those exactly."""
        return self.activation(s)

    def squared_gradients(self, out: Tensor, dout: Tensor, step: Tensor) -> Tensor:
        """G o g as [N, groups, d_out, T]."""
        if self.true_gradients:
            g = self.rows.output_columns(dout)
            return g * g
        tokens = self.rows.token_mode != "" and len(out.shape) > 2
        squares = ops.ones(out.shape, ms.float32)
        if self.has_activation:
            slope = self.slope_of(self.phi)(CAST(out, ms.float32), squares)
            squares = MUL(slope, slope)
        if self.gaussian:
            # The ranks share a batch in their order: a sample's numbers are those of one process.
            n, length = out.shape[0], 0
            if tokens:
                length = out.size // (n * out.shape[-1])
            drawn = squared_normal(n, out.size // n, self.key, step, self.rank * n, length)
            squares = MUL(squares, drawn.reshape(out.shape))
        if tokens:
            # A sample has a gradient everywhere. This takes the backward pass along, which is worth
            # it: most positions of a batch may be padding.
            squares = times_rows(squares, real_positions(dout))
        return self.rows.output_positions(squares)

    def factors(self, x: Tensor, squares: Tensor) -> Tensor:
        """Phi and E[||a||^2 g o g], flat."""
        a = self.rows.input_columns(CAST(x, narrow_type(ms.float32)))
        if self.has_bias:
            a = with_ones(a)
        sizes_g = CAST(SQRT(feature_sums(squares)), a.dtype)
        phi = MUL(block_moments(MUL(a, sizes_g), self.layout), a.shape[3])
        a = CAST(a, ms.float32)
        psi = weighted_means(squares, feature_sums(MUL(a, a)))
        return CONCAT0((phi.reshape(-1), psi.reshape(-1)))

    def construct(self, x: Tensor, out: Tensor, dout: Tensor, state: tuple[Tensor, ...]) -> Tensor:
        """All statistics of a collecting step, then (1, T, N)."""
        fresh = self.factors(x, self.squared_gradients(out, dout, state[2]))
        meta = Tensor([1.0, self.rows.positions(out), x.shape[0]], ms.float32)
        return CONCAT0((fresh, meta))

    def idle(self, x: Tensor, state: tuple[Tensor, ...]) -> Tensor:
        """Nothing collected."""
        return ops.zeros((self.size,), ms.float32)

    def stored(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """The inverses in use, and the layer's counters."""
        return state[0], state[1], state[3]

    # -- the update ---------------------------------------------------------------------------

    def mean_of_ranks(self, x: Tensor) -> Tensor:
        """The mean over all ranks, float32."""
        return MUL(self.all_reduce(x), 1.0 / self.ranks) if self.ranks > 1 else x

    def along(self, x: Tensor, direction: Tensor, g: Tensor) -> Tensor:
        """d^T F d with the empirical Fisher of the loss; g is dL/ds of the mean loss."""
        scale = x.shape[0]
        count = -(-self.rate_samples // self.ranks)
        if 0 < count < scale:
            x, g = part_or_all(x, 0, count), part_or_all(g, 0, count)
        weight = self.rows.from_matrix(part_or_all(direction, 0, self.rows.d_in, 2))
        y = self.rows.apply(x, CAST(weight, x.dtype))
        if self.has_bias:
            bias = part(direction, self.rows.d_in, 1, 2).reshape(-1)
            y = self.rows.add_bias(y, CAST(bias, x.dtype))
        # d^T u_n = g_n^T Dd a_n, summed over the sample's positions, with g_n = N dL/ds_n.
        products = MUL(SUM(MUL(CAST(y, ms.float32), g).reshape((x.shape[0], -1)), 1), scale)
        share = 1.0 / x.shape[0]
        return self.mean_of_ranks(MUL(SUM(MUL(products, products), 0), share))

    def rate(self, x: Tensor, direction: Tensor, matrix: Tensor, g: Tensor) -> Tensor:
        """alpha_l = <d, grad> / (d^T F d + mu)."""
        overlap = total(MUL(direction, matrix))
        along = MUL(overlap, overlap)
        if self.per_sample:
            # A mean of squares is never below the square of the mean, but that of a few samples is.
            along = MAXIMUM(along, self.along(x, direction, g))
        # Zero gradients have no curvature either: 0 / tiny is the right step.
        return overlap / MAXIMUM(ADD(along, self.mu), _TINY)

    def gradients(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        dout: Tensor,
        inverses: tuple[Tensor, Tensor, Tensor],
        unscale: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """alpha_l Psi^-1 D Phi^-1 (times the loss scale), split into weight and bias."""
        rows = self.rows
        g = self.unscaled(dout, unscale)
        plain = self.weight_gradient(x, weight, dout)
        matrix = rows.to_matrix(self.unscaled(plain, unscale))
        if self.has_bias:
            column = SUM(self.per_sample_sums(g), 0).reshape((rows.groups, rows.d_out, 1))
            matrix = CONCAT2((matrix, column))
        if self.adaptive_rate:
            # Now, because the rate needs the whole batch's direction while the samples are here.
            matrix = self.mean_of_ranks(matrix)
        inverse_phi = inverses[0].reshape((rows.groups, self.d_in, self.d_in))
        inverse_psi = inverses[1].reshape((rows.groups, rows.d_out, 1))
        direction = MUL(inverse_psi, BMM(matrix, inverse_phi))
        if self.adaptive_rate:
            rate = self.rate(x, direction, matrix, g)
            # Without factors there is no direction of this method: the plain gradient, as it is.
            direction = direction * ops.where(part(inverses[2], 0, 1).reshape(()) > 0, rate, 1.0)
        if self.dynamic:
            direction = direction / unscale
        elif self.inverse_scale != 1.0:
            direction = direction / self.inverse_scale
        dweight = CAST(rows.from_matrix(part_or_all(direction, 0, rows.d_in, 2)), weight.dtype)
        if not self.has_bias:
            return dweight, ZEROS_LIKE(bias)
        return dweight, CAST(part(direction, rows.d_in, 1, 2).reshape(bias.shape), bias.dtype)


def sample_length(rows: Rows, has_bias: bool) -> int:
    """Entries of Phi and psi of all groups."""
    d_in = rows.d_in + int(has_bias)
    return int(rows.groups * (d_in * d_in + rows.d_out))


class LayerSample(DirectCurvature):
    """One layer's averaged factors and their damped inverses.

    Args:
        name: prefix of the parameters' names.
        rows: the layer's geometry.
        graph: what the graph being compiled is for.
        has_bias: whether the bias is part of the block.
        activation: phi, or None for the identity.
        key: of the layer's random numbers.
        settings: what all layers share.
        step: int32 [1] parameter, the number of finished steps.
    """

    solver = INVERSE

    def __init__(
        self,
        name: str,
        rows: Rows,
        graph: GraphKind,
        has_bias: bool,
        activation: nn.Cell | None,
        key: int,
        settings: LayerSampleSettings,
        step: Tensor,
    ) -> None:
        super().__init__(name, sample_length(rows, has_bias), graph, settings.ema_old_weight)
        self.rows = rows
        self.d_in, self.d_out, self.groups = rows.d_in + int(has_bias), rows.d_out, rows.groups
        self.end_phi = self.groups * self.d_in * self.d_in
        self.settings = (activation, key, settings)
        self.low, self.high = settings.bounds
        self.step = step
        # Until the first inversion: no preconditioning.
        eye = np.broadcast_to(
            np.eye(self.d_in, dtype=np.float32), (1, self.groups, self.d_in, self.d_in)
        )
        self.inverse_phi = state(eye.copy(), f"{name}.inverse_phi")
        self.inverse_psi = state(
            np.ones((1, self.groups, self.d_out), np.float32), f"{name}.inverse_psi"
        )

    def symmetric(self) -> tuple[tuple[int, int, int], ...]:
        """Phi of every group."""
        return ((0, self.groups, self.d_in),)

    def exchanged(self) -> tuple[int, ...]:
        """The gradient's matrix and d^T F d, which the rate needs of the whole batch."""
        if not self.settings[2].adaptive_rate:
            return ()
        matrix = self.groups * self.d_out * self.d_in
        return (matrix, 1) if self.settings[2].per_sample else (matrix,)

    def make_direct_rule(self, has_bias: bool, inverse_scale: float) -> LayerSampleRule:
        """The rule that measures the factors and makes the update's direction."""
        return LayerSampleRule(self.rows, has_bias, inverse_scale, *self.settings)

    def capture_state(self, layer: int, flag: Tensor) -> tuple[Tensor, ...]:
        """Phi^-1, psi^-1, the step's number, and whether anything was measured yet.

        The reshapes make operators' results of them without a copy.
        """
        step = self.step.reshape(())
        ready = part(self.outcomes.counts, self.first, 1).reshape((-1,))
        return self.inverse_phi.reshape((-1,)), self.inverse_psi.reshape((-1,)), step, ready

    def collect(self, fresh: Tensor) -> bool:
        """Let the batch's Phi, and its psi with trace 1, enter the moving average.

        Means are taken over the layer's uses in this pass; no uses leave everything as it is.
        """
        uses = part(fresh, self.end, 1, 1)
        used = GREATER(uses, 0.0)
        uses = MAXIMUM(uses, 1.0)
        psi = part(fresh, self.end_phi, self.groups * self.d_out, 1)
        psi = psi.reshape((self.groups, self.d_out))
        trace_psi = SUM_KEPT(psi, 1)
        # A layer whose units are all dead says nothing about its outputs: treat them alike.
        alike = ADD(ZEROS_LIKE(psi), 1.0 / self.d_out)
        psi = SELECT(GREATER(trace_psi, 0.0), DIV(psi, MAXIMUM(trace_psi, _TINY)), alike)
        positions = part(fresh, self.end + 1, 1, 1)
        samples = DIV(part(fresh, self.end + 2, 1, 1), uses)
        phi = DIV(part(fresh, 0, self.end_phi, 1), uses)
        mean = CONCAT1((phi, psi.reshape((1, -1)), ONES_LIKE(uses), positions, samples))
        keep = self.kept_weight()
        mean = ADD(MUL(keep, self.statistics), MUL(SUB(1.0, keep), mean))
        ASSIGN(self.statistics, SELECT(used, mean, self.statistics))
        return True

    def factor_phi(self) -> Tensor:
        """Phi, [1, groups, d_in, d_in]."""
        phi = part(self.statistics, 0, self.end_phi, 1)
        return phi.reshape((1, self.groups, self.d_in, self.d_in))

    def factor_psi(self) -> Tensor:
        """The diagonal of Psi, [1, groups, d_out]."""
        psi = part(self.statistics, self.end_phi, self.groups * self.d_out, 1)
        return psi.reshape((1, self.groups, self.d_out))

    def clipped(self, mean: Tensor) -> Tensor:
        """The damping for a mean eigenvalue."""
        return MAXIMUM(MINIMUM(mean, self.high), self.low)

    def stacks(self) -> tuple[tuple[int, int], ...]:
        """Phi of every group."""
        return ((self.groups, self.d_in),)

    def derived(self) -> tuple[Parameter, ...]:
        """Both inverses."""
        return self.inverse_phi, self.inverse_psi

    def problems(self, damping: Tensor) -> tuple[Tensor, ...]:
        """Phi and its damping, lam = clip(trace / dimension, nu1, nu2).

        ``damping`` is 1, and more where a failed refresh is retried: factors in float32 carry
        errors of some 1e-7 of their largest eigenvalue, and where these drown the clipped damping
        Phi gets at least ``damping`` times :data:`FLOOR` of its trace.
        """
        phi = self.factor_phi().reshape((self.groups, self.d_in, self.d_in))
        total = trace(phi.expand_dims(1))
        clipped = self.clipped(DIV(total, self.d_in))
        raised = MAXIMUM(clipped, MUL(MUL(damping, FLOOR), total))
        return phi, ops.where(damping > 1, raised, clipped)

    def install(
        self, good: Tensor, damping: Tensor, solutions: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Take Phi's inverses and make psi's, whose lam is clipped likewise."""
        psi = self.factor_psi()
        raised = self.clipped(DIV(SUM_KEPT(psi, 2), self.d_out))
        inverse_psi = DIV(1.0, ADD(psi, raised))
        return where_good(
            good, (ITEM(solutions, 0), inverse_psi), (self.inverse_phi, self.inverse_psi)
        )
