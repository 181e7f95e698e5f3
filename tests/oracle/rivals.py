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


class Soap(Base):
    """Every linear layer. ``basis(layer)`` may supply each new Q_L and Q_R, [maps, d, d].

    L and R of few gradients are singular, so eigenvectors and QR decompositions are not unique:
    what is supplied is checked to be one of them.
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
        basis: Callable[[Layer], list[Array | None]] | None = None,
        momentum: float = 0.0,
        **base,
    ) -> None:
        assert momentum == 0.0
        super().__init__(net, rest=rest, **{"rest_betas": betas, **base})
        self.betas, self.epsilon, self.limit = betas, epsilon, max_preconditioner_dim
        self.beta = betas[1] if shampoo_beta is None else shampoo_beta
        self.basis = basis

    def precondition(self, lam: float, lr: float) -> dict[str, Array]:
        out = {}
        for i, layer in enumerate(self.net.layers):
            d = dict(layer.d)
            if self.covered(layer):
                d = _into(layer, self.direct(layer, c.matrix(layer, False)), False)
            out.update({f"{i}.{k}": v for k, v in d.items()})
        return out

    def direct(self, layer: Layer, matrix: Array) -> Array:
        """Adam's step in the basis; the first step has none."""
        state = self.states[id(layer)]
        if state.fresh is None:
            return np.zeros_like(matrix)
        # What the authors' code does at the end of a step is done before the next one here.
        if state.inverse is None or (self.k - 1) % self.inverse_interval == 0:
            self.turn(layer, matrix)
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

    def turn(self, layer: Layer, matrix: Array) -> None:
        """New bases: M is carried over, V permuted; the identity for a side that is too long."""
        state = self.states[id(layer)]
        given = (None, None) if self.basis is None else self.basis(layer)
        old = state.inverse or [(None, None, 0 * d, 0 * d) for d in matrix]
        state.inverse = []
        for k, (sides, (ql, qr, m, v)) in enumerate(zip(state.fresh, old)):
            outside = [None if q is None else q[k] for q in given]
            left, new_left = self.side(sides[0], ql, outside[0])
            right, new_right = self.side(sides[1], qr, outside[1])
            if ql is not None:
                m = new_left.T @ ql @ m @ qr.T @ new_right
            state.inverse.append((new_left, new_right, m, v[left][:, right]))

    def side(self, moment: Array, q: Array | None, given: Array | None) -> tuple[Array, Array]:
        """(order of the old columns, the new basis) of one side."""
        d = len(moment)
        if d > self.limit:
            return np.arange(d), np.eye(d)
        trace = np.trace(moment)
        if given is not None:
            assert np.abs(given.T @ given - np.eye(d)).max() < 1e-5
        if q is None:
            if given is None:
                return np.arange(d), np.linalg.eigh(moment)[1][:, ::-1]
            inner = given.T @ moment @ given
            assert np.abs(inner - np.diag(np.diag(inner))).max() < 1e-5 * trace
            assert (np.diff(np.diag(inner)) < 1e-5 * trace).all()
            return np.arange(d), given
        # Columns of the null space come last, as they are.
        sizes = np.diag(q.T @ moment @ q)
        null = sizes <= 1e-6 * trace
        order = np.argsort(np.where(null, np.arange(d) + 1.0, -sizes), kind="stable")
        images = moment @ q[:, order]
        if given is None:
            return order, np.linalg.qr(np.where(null[order], q[:, order], images))[0]
        # Q'^T (M Q P) = R is upper triangular.
        assert np.abs(np.tril(given.T @ images, -1)).max() < 1e-5 * trace
        return order, given

    def apply(self, direction: dict[str, Array], lr: float) -> None:
        """Decay comes after the step, and there is none in the first; then L and R follow."""
        decay, first = self.weight_decay, self.k == 0
        if self.rest_decay is None:
            self.rest_decay = decay
        self.weight_decay = 0.0
        super().apply(direction, lr)
        self.weight_decay = decay
        b = self.beta
        for layer in self.net.layers:
            for key in layer.p if self.rest is None else self.covered(layer):
                if layer.p[key].ndim > 1 and not first:
                    layer.p[key] *= 1 - lr * decay
            if not self.covered(layer):
                continue
            state, matrix = self.states[id(layer)], c.matrix(layer, False)
            old = state.fresh or [(0.0, 0.0)] * len(matrix)
            state.fresh = [
                (b * left + (1 - b) * d @ d.T, b * right + (1 - b) * d.T @ d)
                for (left, right), d in zip(old, matrix)
            ]
