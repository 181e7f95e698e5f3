"""FNGD and LNGD in float64, from explicit per-sample gradients and the explicit Fisher matrix."""

from __future__ import annotations

import numpy as np

from oracle.layers import Conv, Dense, Layer, Net
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
