"""Whole training steps of Eva, TKFAC, Shampoo and EKFAC in float64 (methods.md section 4)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from oracle import curvature as c
from oracle.layers import Conv, Dense, Layer, Net
from oracle.optimizers import Base, State, _into

Array = np.ndarray


def average(old: Array | None, new: Array, decay: float) -> Array:
    """decay * old + (1 - decay) * new; the first value is taken as it is."""
    return new if old is None else decay * old + (1 - decay) * new


class Baseline(Base, ABC):
    """Directions by a ``direct(layer, state, matrix, lam)``."""

    homogeneous = True

    def __init__(
        self, net: Net, *, factor_decay: float = 0.95, kl_clip: float | None = None, **base
    ) -> None:
        super().__init__(net, **base)
        self.decay, self.kl = factor_decay, kl_clip

    def bias_of(self, layer: Layer) -> bool:
        return self.homogeneous and "bias" in layer.p

    def covered(self, layer: Layer) -> tuple[str, ...]:
        if not isinstance(layer, (Dense, Conv)):
            return ()
        return tuple(layer.p) if self.bias_of(layer) else ("weight",)

    @abstractmethod
    def direct(self, state: State, matrix: Array, lam: float) -> Array:
        """The preconditioned matrix, [groups, d_out, d_in(+1)]."""

    def precondition(self, lam: float, lr: float) -> dict[str, Array]:
        out = {}
        for i, layer in enumerate(self.net.layers):
            d = dict(layer.d)
            if isinstance(layer, (Dense, Conv)):
                bias = self.bias_of(layer)
                m = c.matrix(layer, bias)
                v = self.direct(self.states[id(layer)], m, lam)
                d = _into(layer, v, bias)
            out.update({f"{i}.{k}": v for k, v in d.items()})
        return out


class Averaged(Baseline):
    """Statistics in a moving average."""

    @abstractmethod
    def measure(self, layer: Layer, state: State) -> tuple[Array, ...]:
        """This batch's statistics."""

    def collect(self, layer: Layer, state: State) -> None:
        if isinstance(layer, (Dense, Conv)):
            old = state.fresh or (None,) * 9
            fresh = self.measure(layer, state)
            state.fresh = tuple(average(o, f, self.decay) for o, f in zip(old, fresh))


class Eva(Averaged):
    def __init__(self, net: Net, *, kl_clip: float | None = 0.001, **base) -> None:
        super().__init__(net, kl_clip=kl_clip, **base)

    def measure(self, layer: Layer, state: State) -> tuple[Array, ...]:
        a, g = c.rows(layer, self.bias_of(layer), self.token_mode)
        return a.mean((0, 2)), g.mean((0, 2))

    def direct(self, state: State, matrix: Array, lam: float) -> Array:
        """(u u^T + lam I)^-1 vec(D) by a dense solve, u = a (x) g, vec stacking columns."""
        out = []
        for a, g, d in zip(*state.fresh, matrix):
            u = np.kron(a, g)
            v = np.linalg.solve(np.outer(u, u) + lam * np.eye(len(u)), d.T.reshape(-1))
            out.append(v.reshape(d.T.shape).T)
        return np.stack(out)


class Tkfac(Averaged):
    def measure(self, layer: Layer, state: State) -> tuple[Array, ...]:
        """E[sum_t |g|^2 a a^T], E[sum_t |a|^2 g g^T], E[sum_t |g|^2 |a|^2]."""
        a, g = c.rows(layer, self.bias_of(layer), self.token_mode)
        n = len(a)
        aa, gg = (a**2).sum(-1), (g**2).sum(-1)
        phi = np.einsum("nkt,nkti,nktj->kij", gg, a, a) / n
        psi = np.einsum("nkt,nkti,nktj->kij", aa, g, g) / n
        return phi, psi, (aa * gg).sum(2).mean(0)

    def refresh(self, layer: Layer, state: State, lam: float) -> None:
        if isinstance(layer, (Dense, Conv)):
            state.inverse = [
                [
                    np.linalg.inv(np.sqrt(delta) * m / delta + np.sqrt(lam) * np.eye(len(m)))
                    for m, delta in zip(moments, state.fresh[2])
                ]
                for moments in state.fresh[:2]
            ]

    def direct(self, state: State, matrix: Array, lam: float) -> Array:
        phi, psi = state.inverse
        return np.stack([p @ d @ q for p, d, q in zip(psi, matrix, phi)])


def inverse_root(m: Array, epsilon: float) -> Array:
    w, q = np.linalg.eigh(m)
    return (q * (np.maximum(w, 0) + epsilon) ** -0.25) @ q.T


class Shampoo(Baseline):
    """L and R of every block in a dictionary keyed by (group, first row, first column)."""

    homogeneous = False

    def __init__(
        self,
        net: Net,
        *,
        epsilon: float = 1e-4,
        max_preconditioner_dim: int = 128,
        **base,
    ) -> None:
        super().__init__(net, damping=epsilon, **base)
        self.size = max_preconditioner_dim

    def blocks(self, m: Array) -> dict[tuple[int, int, int], Array]:
        s = self.size
        return {
            (k, i, j): m[k, i : i + s, j : j + s]
            for k in range(m.shape[0])
            for i in range(0, m.shape[1], s)
            for j in range(0, m.shape[2], s)
        }

    def collect(self, layer: Layer, state: State) -> None:
        if isinstance(layer, (Dense, Conv)):
            old = state.fresh or {}
            state.fresh = {}
            for key, d in self.blocks(c.matrix(layer, False)).items():
                left, right = old.get(key, (0.0, 0.0))
                state.fresh[key] = (left + d @ d.T, right + d.T @ d)

    def refresh(self, layer: Layer, state: State, lam: float) -> None:
        if isinstance(layer, (Dense, Conv)):
            state.inverse = {
                key: (inverse_root(left, lam), inverse_root(right, lam))
                for key, (left, right) in state.fresh.items()
            }

    def direct(self, state: State, matrix: Array, lam: float) -> Array:
        out = np.zeros_like(matrix)
        for (k, i, j), d in self.blocks(matrix).items():
            left, right = state.inverse[k, i, j]
            out[k, i : i + d.shape[0], j : j + d.shape[1]] = left @ d @ right
        return out


def second_moments(a: Array, g: Array, qa: Array, qg: Array) -> Array:
    """E[(Qg^T (sum_t g a^T) Qa)^2] per group, from rows [N, groups, T, d]."""
    m = np.einsum("nkti,nktj->nkij", g, a)
    return (np.einsum("kip,nkij,kjq->nkpq", qg, m, qa) ** 2).mean(0)


class Ekfac(Averaged):
    """``basis(layer)`` may supply the eigenvectors, which float32 and float64 turn apart where
    eigenvalues lie close together; they are checked to diagonalise A and G.
    """

    def __init__(self, net: Net, *, basis=None, **base) -> None:
        super().__init__(net, **base)
        self.basis = basis

    def measure(self, layer: Layer, state: State) -> tuple[Array, ...]:
        return c.factors(layer, self.bias_of(layer), self.token_mode)[:2]

    def spectrum(self, layer: Layer, state: State) -> Array:
        return second_moments(*c.rows(layer, self.bias_of(layer), self.token_mode), *state.basis)

    def collect(self, layer: Layer, state: State) -> None:
        super().collect(layer, state)
        if isinstance(layer, (Dense, Conv)) and self.k < self.next_inverse:
            state.inverse = average(state.inverse, self.spectrum(layer, state), self.decay)

    def refresh(self, layer: Layer, state: State, lam: float) -> None:
        if not isinstance(layer, (Dense, Conv)):
            return
        if self.basis is None:
            state.basis = [np.linalg.eigh(m)[1] for m in state.fresh]
        else:
            state.basis = self.basis(layer)
            for q, m in zip(state.basis, state.fresh):
                turned = q.transpose(0, 2, 1) @ m @ q
                off = turned * (1 - np.eye(m.shape[-1]))
                assert np.abs(off).max() < 1e-5 * np.abs(m).max()
                assert np.abs(q.transpose(0, 2, 1) @ q - np.eye(m.shape[-1])).max() < 1e-5
        state.inverse = self.spectrum(layer, state)

    def direct(self, state: State, matrix: Array, lam: float) -> Array:
        qa, qg = state.basis
        inner = qg.transpose(0, 2, 1) @ matrix @ qa / (state.inverse + lam)
        return qg @ inner @ qa.transpose(0, 2, 1)
