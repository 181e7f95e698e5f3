"""Whole training steps of Muon and SOAP in float64 (methods.md section 4)."""

from __future__ import annotations

from typing import Callable

import numpy as np

from oracle import curvature as c
from oracle.layers import Conv, Dense, Layer, Net
from oracle.optimizers import Base, _into

Array = np.ndarray


def newton_schulz(u: Array, steps: int = 5) -> Array:
    """Muon's quintic iteration on one matrix, as its authors wrote it down."""
    x = u / (np.linalg.norm(u) + 1e-7)
    if u.shape[0] > u.shape[1]:
        x = x.T
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if u.shape[0] > u.shape[1] else x


class Muon(Base):
    """Every linear layer but the last; ``momentum`` is the one that is orthogonalized."""

    def __init__(
        self,
        net: Net,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        rest: str | None = "adamw",
        keep_last: bool = True,
        **base,
    ) -> None:
        super().__init__(net, rest=rest, **base)
        self.beta, self.nesterov, self.steps = momentum, nesterov, ns_steps
        linear = [layer for layer in net.layers if isinstance(layer, (Dense, Conv))]
        self.mine = [id(layer) for layer in (linear[:-1] if keep_last else linear)]

    def covered(self, layer: Layer) -> tuple[str, ...]:
        return ("weight",) if id(layer) in self.mine else ()

    def precondition(self, lam: float, lr: float) -> dict[str, Array]:
        out = {}
        for i, layer in enumerate(self.net.layers):
            d = dict(layer.d)
            if self.covered(layer):
                state, matrix = self.states[id(layer)], c.matrix(layer, False)
                m = 0.0 if state.fresh is None else state.fresh
                state.fresh = m = self.beta * m + (1 - self.beta) * matrix
                u = (1 - self.beta) * matrix + self.beta * m if self.nesterov else m
                scale = np.sqrt(max(1.0, u.shape[1] / u.shape[2]))
                d = _into(layer, scale * np.stack([newton_schulz(x, self.steps) for x in u]), False)
            out.update({f"{i}.{k}": v for k, v in d.items()})
        return out


def turned(q: Array, order: Array, moment: Array) -> Array:
    """One power step and QR of the columns of Q, sorted."""
    return np.linalg.qr(moment @ q[:, order])[0]


class Soap(Base):
    """Every linear layer. ``basis(layer)`` supplies the first Q_L and Q_R of all maps.

    L and R of one gradient are mostly singular: any basis of their null spaces is right, and what
    is supplied is checked to diagonalise them. ``shift`` is added to L and R in a power step, as
    a share of their trace, so that it keeps the null spaces' bases, too.
    """

    def __init__(
        self,
        net: Net,
        *,
        betas: tuple[float, float] = (0.95, 0.95),
        shampoo_beta: float | None = None,
        epsilon: float = 1e-8,
        max_preconditioner_dim: int = 10000,
        rest: str | None = "adamw",
        basis: Callable[[Layer], tuple[Array | None, Array | None]] | None = None,
        shift: float = 0.0,
        momentum: float = 0.0,
        **base,
    ) -> None:
        assert momentum == 0.0
        super().__init__(net, rest=rest, **{"rest_betas": betas, **base})
        self.betas, self.epsilon, self.limit = betas, epsilon, max_preconditioner_dim
        self.beta = betas[1] if shampoo_beta is None else shampoo_beta
        self.first_basis, self.shift = basis, shift

    def precondition(self, lam: float, lr: float) -> dict[str, Array]:
        out = {}
        for i, layer in enumerate(self.net.layers):
            d = dict(layer.d)
            if self.covered(layer):
                v = self.direct(layer, c.matrix(layer, False))
                d = _into(layer, v, False)
            out.update({f"{i}.{k}": v for k, v in d.items()})
        return out

    def direct(self, layer: Layer, matrix: Array) -> Array:
        state = self.states[id(layer)]
        if state.fresh is None:
            return np.zeros_like(matrix)
        if state.inverse is None:
            self.begin(layer)
        state.accepted += 1
        b1, b2 = self.betas
        out = np.zeros_like(matrix)
        for k, d in enumerate(matrix):
            ql, qr, m, v = state.inverse[k]
            p = ql.T @ d @ qr
            m, v = b1 * m + (1 - b1) * p, b2 * v + (1 - b2) * p * p
            state.inverse[k] = (ql, qr, m, v)
            rate = np.sqrt(1 - b2**state.accepted) / (1 - b1**state.accepted)
            out[k] = rate * ql @ (m / (np.sqrt(v) + self.epsilon)) @ qr.T
        return out

    def begin(self, layer: Layer) -> None:
        """The eigenvectors of the first L and R; the identity of a side that is too long."""
        state, matrix = self.states[id(layer)], c.matrix(layer, False)
        given = (None, None) if self.first_basis is None else self.first_basis(layer)
        state.inverse = []
        for k, sides in enumerate(state.fresh):
            qs = []
            for moment, from_outside in zip(sides, given):
                q = np.eye(len(moment))
                if len(moment) <= self.limit:
                    q = np.linalg.eigh(moment)[1][:, ::-1]
                    if from_outside is not None:
                        q = from_outside[k]
                        inner = q.T @ moment @ q
                        off = inner - np.diag(np.diag(inner))
                        assert np.abs(off).max() < 1e-5 * np.abs(moment).max()
                        assert np.abs(q.T @ q - np.eye(len(q))).max() < 1e-5
                        assert (np.diff(np.diag(inner)) <= 1e-6 * np.abs(moment).max()).all()
                qs.append(q)
            state.inverse.append((*qs, np.zeros_like(matrix[k]), np.zeros_like(matrix[k])))

    def apply(self, direction: dict[str, Array], lr: float) -> None:
        """Decay comes after the step, and there is none in the first."""
        decay, first = self.weight_decay, self.k == 0
        if self.rest_decay is None:
            self.rest_decay = decay
        self.weight_decay = 0.0
        super().apply(direction, lr)
        self.weight_decay = decay
        for layer in self.net.layers:
            for key in layer.p if self.rest is None else self.covered(layer):
                if layer.p[key].ndim > 1 and not first:
                    layer.p[key] *= 1 - lr * decay
        for layer in self.net.layers:
            if self.covered(layer):
                self.observe(layer)

    def observe(self, layer: Layer) -> None:
        """L and R after the step; a new basis every f steps, M carried over, V permuted."""
        state, b = self.states[id(layer)], self.beta
        matrix = c.matrix(layer, False)
        if state.fresh is None:
            state.fresh = [(np.zeros((len(d),) * 2), np.zeros((d.shape[1],) * 2)) for d in matrix]
        state.fresh = [
            (b * left + (1 - b) * d @ d.T, b * right + (1 - b) * d.T @ d)
            for (left, right), d in zip(state.fresh, matrix)
        ]
        done = self.k - 1  # the number of this step; that of the first, which initialises, is 0
        if done == 0 or done % self.inverse_interval:
            return
        for k, (left, right) in enumerate(state.fresh):
            ql, qr, m, v = state.inverse[k]
            m = ql @ m @ qr.T
            if len(left) <= self.limit:
                order, ql = self.power_step(ql, left)
                v = v[order]
            if len(right) <= self.limit:
                order, qr = self.power_step(qr, right)
                v = v[:, order]
            state.inverse[k] = (ql, qr, ql.T @ m @ qr, v)

    def power_step(self, q: Array, moment: Array) -> tuple[Array, Array]:
        order = np.argsort(-np.diag(q.T @ moment @ q), kind="stable")
        shifted = moment + self.shift * np.trace(moment) * np.eye(len(moment))
        return order, turned(q, order, shifted)
