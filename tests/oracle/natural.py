"""FNGD and LNGD in float64, from explicit per-sample gradients and the explicit Fisher matrix."""

from __future__ import annotations

import numpy as np

from oracle.curvature import sentences
from oracle.layers import Conv, Dense, Layer, Net, Relu
from oracle.optimizers import Base

Array = np.ndarray


def positions(layer: Dense | Conv, homogeneous: bool = True) -> tuple[Array, Array]:
    """a [N, groups, T, d_in(+1)] and g = N dL/ds [N, groups, T, d_out]; tokens are positions."""
    x, ds = layer.x, layer.ds
    n = len(x)
    if isinstance(layer, Conv):
        a = layer.patches(x).transpose(0, 1, 3, 2)
        g = n * ds.reshape(n, layer.groups, ds.shape[1] // layer.groups, -1).transpose(0, 1, 3, 2)
    else:
        a = x.reshape(n, 1, -1, x.shape[-1])
        g = n * ds.reshape(n, 1, -1, ds.shape[-1])
    if homogeneous and "bias" in layer.p:
        a = np.concatenate([a, np.ones((*a.shape[:-1], 1))], -1)
    return a, g


def per_sample(layer: Dense | Conv, homogeneous: bool = True) -> Array:
    """U^T, [N, groups * d_out * d_in(+1)]."""
    a, g = positions(layer, homogeneous)
    lengths = getattr(layer, "lengths", None)
    if lengths is not None:
        g = g * (len(lengths) / len(g))
        pairs = zip(sentences(g[:, 0, 0], lengths), sentences(a[:, 0, 0], lengths))
        return np.stack([(g_n.T @ a_n).ravel() for g_n, a_n in pairs])
    return np.einsum("ngto,ngti->ngoi", g, a).reshape(len(a), -1)


def split(layer: Dense | Conv, v: Array) -> dict[str, Array]:
    """A vector of the layer's block as its parameters' shapes."""
    groups = getattr(layer, "groups", 1)
    d_out = layer.p["weight"].shape[0] // groups
    m = v.reshape(groups, d_out, -1)
    out = {}
    if "bias" in layer.p:
        out["bias"] = m[:, :, -1].reshape(-1)
        m = m[:, :, :-1]
    out["weight"] = m.reshape(layer.p["weight"].shape)
    return out


def fisher_solve(u: Array, alpha: float) -> tuple[Array, float]:
    """(F + lam I)^-1 gbar with the explicit F = U U^T / N, and lam = alpha ||K||_F."""
    lam = alpha * np.linalg.norm(u @ u.T)
    f = u.T @ u / len(u)
    return np.linalg.solve(f + lam * np.eye(len(f)), u.mean(0)), lam


class Fngd(Base):
    """Coefficients by the Gram matrix only where they are stored; the first use is explicit."""

    averages_directions = True

    def __init__(
        self,
        net: Net,
        *,
        alpha: float = 0.01,
        share: str = "slot",
        absorb_scale: bool = True,
        steps_per_epoch: int = 1,
        **base,
    ) -> None:
        super().__init__(net, **base)
        self.alpha, self.share, self.absorb, self.slots = (
            alpha,
            share,
            absorb_scale,
            steps_per_epoch,
        )
        self.store: dict[tuple[int, int], Array] = {}

    def covered(self, layer: Layer) -> tuple[str, ...]:
        return tuple(layer.p) if isinstance(layer, (Dense, Conv)) else ()

    def coefficients(self, u: Array) -> Array:
        k = u @ u.T
        lam = self.alpha * np.linalg.norm(k)
        c = np.linalg.solve(len(u) * lam * np.eye(len(u)) + k, np.ones(len(u)))
        return lam * c if self.absorb else c

    def stored(self, i: int) -> Array:
        if self.share == "slot":
            return self.store[i, self.k % self.slots]
        epoch = [self.store[i, s] for s in range(self.slots)]
        return epoch[-1] if self.share == "last" else np.mean(epoch, 0)

    def precondition(self, lam: float, lr: float) -> dict[str, Array]:
        out = {}
        for i, layer in enumerate(self.net.layers):
            d = dict(layer.d)
            if isinstance(layer, (Dense, Conv)):
                u = per_sample(layer)
                if self.share == "none" or self.k < self.slots:
                    self.store[i, self.k] = self.coefficients(u)
                    v, scale = fisher_solve(u, self.alpha)
                    d = split(layer, scale * v if self.absorb else v)
                else:
                    d = split(layer, u.T @ self.stored(i))
            out.update({f"{i}.{k}": v for k, v in d.items()})
        return out


def covered(net: Net) -> list[Layer]:
    """The layers with a block of their own."""
    return [layer for layer in net.layers if isinstance(layer, (Dense, Conv))]


# -- LNGD ---------------------------------------


def linear_output(layer: Dense | Conv) -> Array:
    """s = W a + b, before any activation."""
    if isinstance(layer, Conv):
        return layer.forward(layer.x)
    return layer.x @ layer.p["weight"].T + layer.p.get("bias", 0.0)


def analytic_squares(layer: Dense | Conv, slope: float | None) -> Array:
    """E[g o g] = phi'(s)^2 [N, groups, T, d_out] for a leaky ReLU (None: the identity)."""
    s = linear_output(layer)
    squares = np.ones_like(s) if slope is None else np.where(s > 0, 1.0, slope) ** 2
    n = len(s)
    if isinstance(layer, Conv):
        channels = s.shape[1] // layer.groups
        return squares.reshape(n, layer.groups, channels, -1).transpose(0, 1, 3, 2)
    return squares.reshape(n, 1, -1, s.shape[-1])


def lngd_factors(a: Array, squares: Array, samples: int = 0) -> tuple[Array, Array]:
    """Phi [groups, d_in, d_in] and psi [groups, d_out], sums over positions, means over samples.

    ``samples`` is how many there are where the first axis are the positions of all of them.
    """
    norms, lengths = squares.sum(3), (a * a).sum(3)
    phi = np.einsum("ngt,ngti,ngtj->gij", norms, a, a) / (samples or len(a))
    psi = np.einsum("ngt,ngto->go", lengths, squares)
    return phi, psi / psi.sum(1, keepdims=True)


def slope_after(net: Net, i: int) -> float | None:
    """The leaky ReLU's slope inside or directly behind layer i."""
    layer = net.layers[i]
    own = getattr(layer, "activation", None)
    following = net.layers[i + 1] if own is None and i + 1 < len(net.layers) else None
    for candidate in (own, following):
        if isinstance(candidate, Relu):
            return candidate.slope
    return None


class Lngd(Base):
    """Layer-wise directions and rates from the explicit per-sample gradients."""

    rate_inside = True
    averages_directions = True

    def __init__(
        self,
        net: Net,
        *,
        gradients: str = "sampled",
        adaptive_rate: bool = True,
        fisher: str = "per_sample",
        mu: float = 1e-7,
        nu1: float = 1e-5,
        nu2: float = 1e-2,
        ema_old_weight: float = 0.95,
        **base,
    ) -> None:
        super().__init__(net, **base)
        adaptive_rate = adaptive_rate and self.grafting is None  # another way to choose lengths
        self.gradients, self.adaptive, self.fisher = gradients, adaptive_rate, fisher
        self.mu, self.nu, self.keep = mu, (nu1, nu2), ema_old_weight
        self.factors: dict[int, tuple[Array, Array]] = {}
        self.inverses: dict[int, tuple[Array, Array]] = {}
        self.rates_of: dict[int, float] = {}

    def covered(self, layer: Layer) -> tuple[str, ...]:
        return tuple(layer.p) if isinstance(layer, (Dense, Conv)) else ()

    def measure(self, i: int, layer: Dense | Conv) -> None:
        a, g = positions(layer)
        true = self.gradients == "true"
        squares = g * g if true else analytic_squares(layer, slope_after(self.net, i))
        fresh = lngd_factors(a, squares, len(getattr(layer, "lengths", ())))
        if i in self.factors:
            fresh = tuple(
                self.keep * o + (1 - self.keep) * f for o, f in zip(self.factors[i], fresh)
            )
        self.factors[i] = fresh

    def invert(self, i: int) -> None:
        phi, psi = self.factors[i]
        d_in, d_out = phi.shape[1], psi.shape[1]
        lam = np.clip(np.trace(phi, axis1=1, axis2=2) / d_in, *self.nu)[:, None, None]
        lam_psi = np.clip(psi.sum(1) / d_out, *self.nu)[:, None]
        self.inverses[i] = (np.linalg.inv(phi + lam * np.eye(d_in)), 1 / (psi + lam_psi))

    def update_of(self, i: int, layer: Dense | Conv) -> Array:
        """alpha_l d_l as a vector of the layer's block."""
        phi, psi = self.inverses[i]
        u = per_sample(layer)
        gradient = u.mean(0)
        d = psi[:, :, None] * (gradient.reshape(len(phi), -1, phi.shape[1]) @ phi)
        d = d.ravel()
        overlap = d @ gradient
        along = ((u @ d) ** 2).mean() if self.fisher == "per_sample" else overlap**2
        self.rates_of[i] = overlap / (along + self.mu) if self.adaptive else 1.0
        return self.rates_of[i] * d

    def step(self, x: Array, labels: Array) -> float:
        loss = self.net.loss(x, labels)
        lr = self.now(self.lr)
        layers = enumerate(self.net.layers)
        mine = [(i, layer) for i, layer in layers if isinstance(layer, (Dense, Conv))]
        if self.k >= self.next_factor:
            for i, layer in mine:
                self.measure(i, layer)
            self.next_factor = self.k + self.factor_interval
        if self.k >= self.next_inverse:
            for i, _ in mine:
                self.invert(i)
            self.next_inverse = self.k + self.inverse_interval
        direction = self.net.gradients()
        for i, layer in mine:
            parts = split(layer, self.update_of(i, layer))
            direction.update({f"{i}.{key}": value for key, value in parts.items()})
        self.apply(direction, lr)
        return loss
