"""LNGD: Fisher factors of layer-wise samples and a learning rate per layer (methods section 3).

F ~= E[a a^T (x) diag(g g^T)] is replaced by Phi (x) diag(psi) with Phi = E[||g||^2 a a^T] and
psi = E[||a||^2 g o g] / E[||a||^2 ||g||^2], where g = -phi'(s) o eps belongs to a sample from the
layer's own Gaussian N(phi(s), I): neither needs a backward pass through the loss. Positions of a
convolution, and tokens, are summed over.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindspore_thor.curvature.base import META
from mindspore_thor.curvature.direct import DirectCurvature, DirectRule, GraphKind
from mindspore_thor.curvature.kronecker import trace
from mindspore_thor.linalg.blocks import block_layout
from mindspore_thor.linalg.inverse import damped_inverse
from mindspore_thor.linalg.moments import block_moments, with_ones
from mindspore_thor.linalg.random import normal

_TINY = 1e-30
FLOOR = 1e-3
"""Damping, relative to the mean eigenvalue of Phi, of the second try in float32."""


class LayerSampleSettings:
    """What all layers of one optimizer share.

    Args:
        sampling: "gaussian" or "analytic".
        true_gradients: g is the gradient of the loss instead of a sample.
        adaptive_rate: multiply the direction by alpha_l; else alpha_l = 1.
        per_sample: d^T F d as the mean over samples; else <d, grad>^2.
        mu: added to d^T F d.
        bounds: (nu1, nu2), limits of the damping.
    """

    def __init__(
        self,
        sampling: str,
        true_gradients: bool,
        adaptive_rate: bool,
        per_sample: bool,
        mu: float,
        bounds: tuple[float, float],
    ) -> None:
        self.sampling = sampling
        self.true_gradients = true_gradients
        self.adaptive_rate = adaptive_rate
        self.per_sample = per_sample
        self.mu = mu
        self.bounds = bounds


class LayerInverse(nn.Cell):
    """Damped inverses of Phi and psi.

    Args:
        groups: number of groups.
        d_in: rows of Phi, the bias included.
        d_out: length of psi.
        bounds: (nu1, nu2): lam = clip(trace / dimension, nu1, nu2) for either factor.
    """

    def __init__(self, groups: int, d_in: int, d_out: int, bounds: tuple[float, float]) -> None:
        super().__init__(auto_prefix=False)
        self.groups, self.d_in, self.d_out = groups, d_in, d_out
        self.end_phi = groups * d_in * d_in
        self.low, self.high = bounds

    def clip(self, value: Tensor) -> Tensor:
        """The damping for a mean eigenvalue."""
        return ops.maximum(ops.minimum(value, self.high), self.low)

    def construct(self, factors: Tensor, old: Tensor) -> Tensor:
        """Flat (Phi, psi) and the inverses in use -> flat (Phi^-1, psi^-1, whether it failed).

        Where float32 cannot invert Phi with its own small damping, a larger one is tried; where
        that fails too, the inverses in use stay.
        """
        phi = factors[: self.end_phi].reshape((self.groups, self.d_in, self.d_in))
        psi = factors[self.end_phi :].reshape((self.groups, self.d_out))
        mean = trace(phi.expand_dims(1)).reshape((-1, 1, 1)) / self.d_in
        psi = psi + self.clip(psi.sum(1, keepdims=True) / self.d_out)
        inverse_psi = (1.0 / psi).reshape(-1)
        damping = self.clip(mean)
        inverse, ok = damped_inverse(phi, damping)
        if ok:
            fresh = ops.concat((inverse.reshape(-1), inverse_psi, ops.zeros((1,), ms.float32)))
        else:
            fresh = self.again(phi, ops.maximum(damping, FLOOR * mean), inverse_psi, old)
        return fresh

    def again(self, phi: Tensor, damping: Tensor, inverse_psi: Tensor, old: Tensor) -> Tensor:
        """The second try."""
        inverse, ok = damped_inverse(phi, damping)
        fresh = ops.where(ok, ops.concat((inverse.reshape(-1), inverse_psi)), old)
        failed = 1.0 - ops.cast(ok, ms.float32).reshape((1,))
        return ops.concat((fresh, failed))


class LayerSampleRule(DirectRule):
    """Backward rule: averaged factors, their inverses where due, and alpha_l d_l.

    The statistics are (Phi, psi, Phi^-1, psi^-1, 1, whether an inversion was due, whether it
    failed). The state is the factors; the inverses; (step, inversion due, first collection); and
    one tensor that is not used.

    Args:
        rows: the layer's geometry.
        has_bias: whether a one is appended to a.
        inverse_scale: what undoes the loss scale.
        activation: phi, or None for the identity.
        key: of the layer's random numbers.
        ema_old_weight: weight of the old factors.
        settings: what all layers share.
    """

    def __init__(
        self,
        rows: nn.Cell,
        has_bias: bool,
        inverse_scale: float,
        activation: nn.Cell | None,
        key: int,
        ema_old_weight: float,
        settings: LayerSampleSettings,
    ) -> None:
        super().__init__(rows, has_bias, inverse_scale)
        self.has_activation = activation is not None
        self.activation = nn.Identity() if activation is None else activation
        self.slope_of = ops.GradOperation(sens_param=True)
        self.key = key
        self.old_weight = ema_old_weight
        self.gaussian = settings.sampling == "gaussian"
        self.true_gradients = settings.true_gradients
        self.adaptive_rate = settings.adaptive_rate
        self.per_sample = settings.per_sample
        self.mu = settings.mu
        self.d_in = rows.d_in + int(has_bias)
        self.layout = block_layout(self.d_in, None)
        self.inverse = LayerInverse(rows.groups, self.d_in, rows.d_out, settings.bounds)
        self.end_phi = self.inverse.end_phi
        self.end_factors = self.end_phi + rows.groups * rows.d_out

    # -- statistics ---------------------------------------------------------------------------

    def phi(self, s: Tensor) -> Tensor:
        """The activation; a method, because GradOperation differentiates those exactly."""
        return self.activation(s)

    def squared_gradients(self, out: Tensor, dout: Tensor, step: Tensor) -> Tensor:
        """G o g as [N, groups, d_out, T]."""
        if self.true_gradients:
            g = self.rows.output_columns(dout)
            return g * g
        slope = ops.ones(out.shape, ms.float32)
        if self.has_activation:
            slope = self.slope_of(self.phi)(ops.cast(out, ms.float32), slope)
        if self.gaussian:
            slope = slope * normal(out.size, self.key, step).reshape(out.shape)
        return self.rows.output_positions(slope * slope)

    def factors(self, x: Tensor, squares: Tensor) -> Tensor:
        """Fresh Phi and psi as one vector."""
        a = self.rows.input_columns(ops.cast(x, ms.float32))
        if self.has_bias:
            a = with_ones(a)
        norms = squares.sum(2, keepdims=True)
        phi = block_moments(a * ops.sqrt(norms), self.layout) * a.shape[3]
        lengths = (a * a).sum(2, keepdims=True)
        psi = (lengths * squares).sum((0, 3))
        total = psi.sum(1, keepdims=True)
        # A layer whose units are all dead says nothing about its outputs: treat them alike.
        psi = ops.where(total > 0, psi / ops.maximum(total, _TINY), 1.0 / self.rows.d_out)
        return ops.concat((phi.reshape(-1), psi.reshape(-1)))

    def inverses(self, factors: Tensor, old: Tensor, due: Tensor) -> Tensor:
        """New inverses where they are due, else those in use; the last entry says "failed"."""
        if due > 0:
            found = self.inverse(factors, old)
        else:
            found = ops.concat((old, ops.zeros((1,), ms.float32)))
        return found

    def construct(self, x: Tensor, out: Tensor, dout: Tensor, state: tuple[Tensor, ...]) -> Tensor:
        """All statistics of a collecting step."""
        old, inverses, numbers = state[0], state[1], state[2]
        fresh = self.factors(x, self.squared_gradients(out, dout, numbers[0]))
        keep = self.old_weight * (1.0 - ops.cast(numbers[2], ms.float32))
        fresh = keep * old + (1.0 - keep) * fresh
        return self.with_inverses(fresh, inverses, numbers, 1.0)

    def with_inverses(
        self, factors: Tensor, inverses: Tensor, numbers: Tensor, uses: float
    ) -> Tensor:
        """The whole statistics vector."""
        found = self.inverses(factors, inverses, numbers[1])
        end = found.shape[0] - 1
        due = ops.cast(numbers[1].reshape((1,)), ms.float32)
        one = ops.ones((1,), ms.float32)
        return ops.concat((factors, found[:end], one * uses, due, found[end:]))

    def idle(self, x: Tensor, state: tuple[Tensor, ...]) -> Tensor:
        """The stored factors, marked as not collected; inverted if that alone is due."""
        return self.with_inverses(state[0], state[1], state[2], 0.0)

    def reported(self, statistics: Tensor) -> Tensor:
        """All of it."""
        return statistics

    def derived(self, x: Tensor, statistics: Tensor) -> Tensor:
        """The inverses that this step uses."""
        return statistics[self.end_factors : statistics.shape[0] - META]

    def stored(self, x: Tensor, state: tuple[Tensor, ...]) -> Tensor:
        """The inverses in use."""
        return state[1]

    # -- the update ---------------------------------------------------------------------------

    def curvature_along(self, x: Tensor, direction: Tensor, g: Tensor, overlap: Tensor) -> Tensor:
        """d^T F d with the empirical Fisher of the loss; g is dL/ds of the mean loss."""
        if not self.per_sample:
            return overlap * overlap
        n = x.shape[0]
        weight = self.rows.from_matrix(direction[:, :, : self.rows.d_in])
        y = self.rows.apply(x, ops.cast(weight, x.dtype))
        if self.has_bias:
            bias = direction[:, :, self.rows.d_in].reshape(-1)
            y = self.rows.add_bias(y, ops.cast(bias, x.dtype))
        # d^T u_n = g_n^T Dd a_n, summed over the sample's positions, with g_n = N dL/ds_n.
        along = (ops.cast(y, ms.float32) * g).reshape((n, -1)).sum(1) * n
        return (along * along).mean()

    def gradients(
        self, x: Tensor, weight: Tensor, bias: Tensor, dout: Tensor, inverses: Tensor
    ) -> tuple[Tensor, Tensor]:
        """alpha_l Psi^-1 D Phi^-1 (times the loss scale), split into weight and bias."""
        rows = self.rows
        g = self.unscaled(dout)
        matrix = rows.to_matrix(self.unscaled(self.weight_gradient(x, weight, dout)))
        if self.has_bias:
            column = self.per_sample_sums(g).sum(0).reshape((rows.groups, rows.d_out, 1))
            matrix = ops.concat((matrix, column), 2)
        inverse_phi = inverses[: self.end_phi].reshape((rows.groups, self.d_in, self.d_in))
        inverse_psi = inverses[self.end_phi :].reshape((rows.groups, rows.d_out, 1))
        direction = inverse_psi * ops.bmm(matrix, inverse_phi)
        if self.adaptive_rate:
            overlap = (direction * matrix).sum()
            along = self.curvature_along(x, direction, g, overlap)
            # Zero gradients have no curvature either: 0 / tiny is the right step.
            direction = direction * (overlap / ops.maximum(along + self.mu, _TINY))
        direction = direction / self.inverse_scale
        dweight = ops.cast(rows.from_matrix(direction[:, :, : rows.d_in]), weight.dtype)
        if not self.has_bias:
            return dweight, ops.zeros_like(bias)
        return dweight, ops.cast(direction[:, :, rows.d_in].reshape(bias.shape), bias.dtype)


class LayerSample(DirectCurvature):
    """One layer's factors and inverses.

    Args:
        name: prefix of the parameters' names.
        rows: the layer's geometry.
        graph: what the graph being compiled is for.
        has_bias: whether the bias is part of the block.
        activation: phi, or None for the identity.
        key: of the layer's random numbers.
        ema_old_weight: weight of the old factors; the first collection overwrites.
        settings: what all layers share.
        step: int32 [1] parameter, the number of finished steps.
        next_inverse: int32 scalar parameter, the step at which inverses are due.
    """

    def __init__(
        self,
        name: str,
        rows: nn.Cell,
        graph: GraphKind,
        has_bias: bool,
        activation: nn.Cell | None,
        key: int,
        ema_old_weight: float,
        settings: LayerSampleSettings,
        step: Tensor,
        next_inverse: Tensor,
    ) -> None:
        d_in, d_out, groups = rows.d_in + int(has_bias), rows.d_out, rows.groups
        length = groups * (d_in * d_in + d_out)
        super().__init__(name, 2 * length, graph)
        self.rows = rows
        self.end_factors = length
        self.settings = (activation, key, ema_old_weight, settings)
        self.inverse = LayerInverse(groups, d_in, d_out, settings.bounds)
        self.step = step
        self.next_inverse = next_inverse
        # Until the first inversion: no preconditioning.
        start = np.zeros(self.size, np.float32)
        eye = np.broadcast_to(np.eye(d_in, dtype=np.float32), (groups, d_in, d_in))
        start[length : self.end] = np.concatenate([eye.ravel(), np.ones(groups * d_out)])
        self.statistics.set_data(Tensor(start))

    def make_direct_rule(self, has_bias: bool, inverse_scale: float) -> LayerSampleRule:
        """The rule that keeps the factors and makes the update's direction."""
        return LayerSampleRule(self.rows, has_bias, inverse_scale, *self.settings)

    def capture_state(self) -> tuple[Tensor, ...]:
        """Factors, inverses, (step, whether inverses are due, whether nothing was collected)."""
        step = self.step.reshape(())
        due = ops.cast(step >= self.next_inverse, ms.int32)
        first = ops.cast(self.statistics[self.end] == 0, ms.int32)
        numbers = ops.stack((step, due, first))
        factors = self.statistics[: self.end_factors]
        return factors, self.statistics[self.end_factors : self.end], numbers, numbers

    def collect(self, fresh: Tensor) -> None:
        """Store factors and inverses, averaged over the layer's uses in this pass."""
        used = fresh[self.end] > 0
        uses = ops.maximum(fresh[self.end], 1.0)
        ops.assign(self.statistics, ops.where(used, fresh / uses, self.statistics))
        self.note(ops.cast(fresh[self.end + 1] > 0, ms.int32) * ops.cast(used, ms.int32), fresh)

    def note(self, tried: Tensor, result: Tensor) -> None:
        """Count one inversion (or none); the last entry of ``result`` says whether it failed."""
        failed = tried * ops.cast(result[result.shape[0] - 1] > 0, ms.int32)
        self.count(tried - failed, 0, failed)

    def refresh(self, damping: Tensor) -> None:
        """Invert the stored factors; the damping follows from them."""
        factors = self.statistics[: self.end_factors]
        old = self.statistics[self.end_factors : self.end]
        found = self.inverse(factors, old)
        end = found.shape[0] - 1
        ops.assign(self.statistics, ops.concat((factors, found[:end], self.statistics[self.end :])))
        self.note(ops.ones_like(self.active), found)

    def retry(self, damping: Tensor) -> None:
        """Nothing: the second try is part of the inversion."""
