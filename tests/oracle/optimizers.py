"""Whole training steps of THOR and KFAC in float64, written from methods.md sections 1 and 4."""

from __future__ import annotations

import math
from typing import Callable

import numpy as np

from oracle import curvature as c
from oracle.layers import Conv, Dense, Embedding, Layer, LayerNorm, Net

Array = np.ndarray


def every(interval: int | Callable[[int], int] | list, step: int) -> int:
    """The interval that holds at a step."""
    if callable(interval):
        return interval(step)
    if isinstance(interval, int):
        return interval
    return [value for start, value in interval if start <= step][-1]


class State:
    """What one layer carries from step to step."""

    def __init__(self) -> None:
        self.fresh = None  # (A, G, T)
        self.inverse = None
        self.baseline: float | None = None
        self.accepted = self.kept = 0
        self.stopped = False


class Adam:
    """Kingma & Ba 2015, Algorithm 1, without the rate: m^ / (sqrt(v^) + epsilon).

    With ``nesterov`` Dozat 2016, Algorithm 2, beta1 constant: b1 m^ + (1 - b1) g / (1 - b1^t).
    """

    def __init__(self, beta1: float, beta2: float, epsilon: float, nesterov: bool = False) -> None:
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.nesterov = nesterov
        self.moments: dict[str, tuple] = {}

    def __call__(self, name: str, g: Array, step: int) -> Array:
        m, v = self.moments.get(name, (0.0, 0.0))
        m, v = self.beta1 * m + (1 - self.beta1) * g, self.beta2 * v + (1 - self.beta2) * g * g
        self.moments[name] = (m, v)
        root = np.sqrt(v / (1 - self.beta2**step)) + self.epsilon
        hat, fresh = m / (1 - self.beta1**step), g / (1 - self.beta1**step)
        return (self.beta1 * hat + (1 - self.beta1) * fresh if self.nesterov else hat) / root


class Base:
    """Momentum, decay, learning rate, intervals, the rest's rule and grafting."""

    rate_inside = False  # of the momentum
    averages_directions = False  # with momentum_first, in place of gradients
    kl: float | None = None

    def __init__(
        self,
        net: Net,
        lr: float | list | Callable[[int], float] = 1.0,
        damping: float | Callable[[int], float] = 0.03,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        factor_interval=1,
        inverse_interval=1,
        clip_norm: float | None = None,
        rates: dict[str, float] | None = None,
        decays: dict[str, float] | None = None,
        token_mode: str = "expand",
        rest: str | None = None,
        rest_learning_rate: float | list | Callable[[int], float] | None = None,
        rest_weight_decay: float | None = None,
        rest_betas: tuple[float, float] = (0.9, 0.999),
        rest_epsilon: float = 1e-8,
        grafting: str | None = None,
        momentum_first: bool = False,
    ) -> None:
        self.net = net
        self.rest, self.rest_lr, self.rest_decay = rest, rest_learning_rate, rest_weight_decay
        self.adam = Adam(*rest_betas, rest_epsilon, rest == "nadamw")
        self.grafted = Adam(*rest_betas, rest_epsilon, grafting == "nadamw")
        self.grafting = grafting
        self.momentum_first = momentum_first
        self.average: dict[str, Array] = {}
        self.lr = lr
        self.damping = damping
        self.momentum, self.weight_decay = momentum, weight_decay
        self.factor_interval, self.inverse_interval = factor_interval, inverse_interval
        self.clip_norm = clip_norm
        self.rates, self.decays = rates, decays
        self.token_mode = token_mode
        self.k = self.next_factor = self.next_inverse = 0
        self.velocity = {name: np.zeros_like(w) for name, w in net.weights().items()}
        self.states = {id(layer): State() for layer in net.layers}

    def now(self, value: float | list | Callable[[int], float]) -> float:
        if callable(value):
            return value(self.k)
        if isinstance(value, (list, tuple)):
            return value[min(self.k, len(value) - 1)]
        return value

    def collect(self, layer: Layer, state: State) -> None: ...
    def refresh(self, layer: Layer, state: State, lam: float) -> None: ...
    def precondition(self, lam: float, lr: float) -> dict[str, Array]: ...

    def covered(self, layer: Layer) -> tuple[str, ...]:
        """What the method moves of a layer."""
        return ("weight",) if isinstance(layer, (Dense, Conv)) else ()

    def graft(self, direction: dict[str, Array], lengths: dict[str, Array]) -> None:
        """Every layer's direction gets the norm of the other rule's step."""
        for i, layer in enumerate(self.net.layers):
            names = [f"{i}.{key}" for key in self.covered(layer)]
            own, other = (
                math.sqrt(sum((found[name] ** 2).sum() for name in names))
                for found in (direction, lengths)
            )
            for name in names:
                direction[name] = direction[name] * (other / own)

    def step(self, x: Array, labels: Array) -> float:
        loss = self.net.loss(x, labels)
        lam, lr = self.now(self.damping), self.now(self.lr)
        if self.k >= self.next_factor:
            for layer in self.net.layers:
                if not self.states[id(layer)].stopped:
                    self.collect(layer, self.states[id(layer)])
            self.next_factor = self.k + every(self.factor_interval, self.k)
        if self.k >= self.next_inverse:
            for layer in self.net.layers:
                if not self.states[id(layer)].stopped:
                    self.refresh(layer, self.states[id(layer)], lam)
            self.next_inverse = self.k + every(self.inverse_interval, self.k)
        if not self.momentum_first or self.averages_directions:
            self.apply(self.precondition(lam, lr), lr)
            return loss
        plain = {name: d.copy() for name, d in self.net.gradients().items()}
        for name, (layer, key) in self.net.named().items():
            layer.d[key] = self.averaged(name, plain[name])
        direction = self.precondition(lam, lr)
        for name, (layer, key) in self.net.named().items():
            layer.d[key] = plain[name]
        self.apply(direction, lr)
        return loss

    def averaged(self, name: str, value: Array) -> Array:
        """Momentum in front of grafting, in Nesterov's form where NAdamW is grafted."""
        beta = self.momentum
        average = beta * self.average.get(name, np.zeros_like(value)) + (1 - beta) * value
        self.average[name] = average
        return beta * average + (1 - beta) * value if self.grafting == "nadamw" else average

    def apply(self, direction: dict[str, Array], lr: float) -> None:
        """Everything behind the direction."""
        named, plain = self.net.named(), self.net.gradients()
        covered = [f"{i}.{k}" for i, x in enumerate(self.net.layers) for k in self.covered(x)]
        if self.momentum_first and self.averages_directions:
            direction.update({name: self.averaged(name, direction[name]) for name in covered})
        if self.grafting == "sgd":
            self.graft(direction, plain)
        elif self.grafting is not None:
            self.graft(direction, {n: self.grafted(n, plain[n], self.k + 1) for n in covered})
        if self.kl is not None:
            overlap = sum((direction[name] * plain[name]).sum() for name in covered)
            nu = min(1.0, math.sqrt(self.kl / (lr**2 * overlap)))
            direction.update({name: nu * direction[name] for name in covered})
        if self.rest is not None:
            for name in named.keys() - set(covered):
                layer, key = named.pop(name)
                decay = self.weight_decay if self.rest_decay is None else self.rest_decay
                decay = decay if layer.p[key].ndim > 1 else 0.0
                if self.decays is not None and self.rest_decay is None:
                    decay = self.decays[name]
                rate = self.rates[name] if self.rates else lr
                rate = rate if self.rest_lr is None else self.now(self.rest_lr)
                step = self.adam(name, plain[name], self.k + 1)
                layer.p[key] -= rate * (step + decay * layer.p[key])
            direction = {name: direction[name] for name in named}
        for name, (layer, key) in named.items():
            decay = self.weight_decay if layer.p[key].ndim > 1 else 0.0
            if self.decays is not None:
                decay = self.decays[name]
            direction[name] = direction[name] + decay * layer.p[key]
        if self.clip_norm is not None:
            norm = math.sqrt(sum((d**2).sum() for d in direction.values()))
            direction = {n: d * min(1.0, self.clip_norm / norm) for n, d in direction.items()}
        for name, (layer, key) in named.items():
            rate = self.rates[name] if self.rates else lr
            inside, outside = (rate, 1.0) if self.rate_inside else (1.0, rate)
            momentum = 0.0 if self.momentum_first else self.momentum
            self.velocity[name] = momentum * self.velocity[name] + inside * direction[name]
            layer.p[key] -= outside * self.velocity[name]
        self.k += 1


def _into(layer: Layer, v: Array, homogeneous: bool) -> dict[str, Array]:
    """A preconditioned [groups, d_out, d_in(+1)] back in the parameters' shapes."""
    out = dict(layer.d)
    if homogeneous:
        out["bias"] = v[:, :, -1].reshape(layer.p["bias"].shape)
        v = v[:, :, :-1]
    out["weight"] = v.reshape(layer.p["weight"].shape)
    return out


class Thor(Base):
    def __init__(
        self,
        net: Net,
        *,
        split_dim: int | None = 128,
        damping_mode: str = "sqrt",
        trace_thresholds: tuple[float, float] = (0.01, 0.0),
        trace_include_damping: bool = True,
        trace_form: str = "literal",
        trace_baseline: str = "accepted",
        **base,
    ) -> None:
        super().__init__(net, **base)
        self.split, self.mode, (self.w1, self.w2) = split_dim, damping_mode, trace_thresholds
        self.include, self.form, self.compare = trace_include_damping, trace_form, trace_baseline

    def covered(self, layer: Layer) -> tuple[str, ...]:
        if isinstance(layer, Embedding):
            return ("embedding_table",)
        return tuple(layer.p) if isinstance(layer, LayerNorm) else super().covered(layer)

    def collect(self, layer: Layer, state: State) -> None:
        if isinstance(layer, (Dense, Conv)):
            state.fresh = c.factors(layer, False, self.token_mode)
        elif isinstance(layer, Embedding):
            state.fresh = c.embedding_factors(layer)

    def refresh(self, layer: Layer, state: State, lam: float) -> None:
        if isinstance(layer, Embedding):
            counts, g = state.fresh
            root = math.sqrt(lam)
            state.inverse = (1 / (counts + root), np.linalg.inv(g + root * np.eye(len(g))))
        if not isinstance(layer, (Dense, Conv)):
            return
        trace = abs(c.fisher_trace(*state.fresh, lam, self.form, self.include))
        delta = math.inf if state.baseline is None else abs(trace - state.baseline) / state.baseline
        accept = delta > self.w1
        if accept or self.compare == "previous":
            state.baseline = trace
        if accept:
            state.inverse = c.inverses(*state.fresh, lam, self.mode, self.split)
            state.accepted += 1
        else:
            state.kept += 1
            state.stopped = delta < self.w2

    def precondition(self, lam: float, lr: float) -> dict[str, Array]:
        out = {}
        for i, layer in enumerate(self.net.layers):
            d, state = dict(layer.d), self.states[id(layer)]
            if isinstance(layer, (Dense, Conv)):
                ia, ig = state.inverse
                d = _into(layer, ig @ c.matrix(layer, False) @ ia, False)
            elif isinstance(layer, Embedding):
                scale, ig = state.inverse
                d = {"embedding_table": scale[:, None] * d["embedding_table"] @ ig}
            elif isinstance(layer, LayerNorm):
                d = {k: v / (v * v / self.batch + math.sqrt(lam)) for k, v in d.items()}
            out.update({f"{i}.{k}": v for k, v in d.items()})
        return out

    def step(self, x: Array, labels: Array) -> float:
        self.batch = len(labels)
        return super().step(x, labels)


class Kfac(Base):
    def __init__(
        self,
        net: Net,
        *,
        factor_decay: float = 0.95,
        kl_clip: float | None = 0.001,
        method: str = "eigen",
        damping_mode: str = "pi",
        **base,
    ) -> None:
        super().__init__(net, **base)
        self.decay, self.kl, self.method, self.mode = factor_decay, kl_clip, method, damping_mode
        if self.grafting is not None:
            self.kl = None

    def covered(self, layer: Layer) -> tuple[str, ...]:
        return tuple(layer.p) if isinstance(layer, (Dense, Conv)) else ()

    def collect(self, layer: Layer, state: State) -> None:
        if not isinstance(layer, (Dense, Conv)):
            return
        a, g, t = c.factors(layer, "bias" in layer.p, self.token_mode)
        if state.fresh is not None:
            old_a, old_g, _ = state.fresh
            a = self.decay * old_a + (1 - self.decay) * a
            g = self.decay * old_g + (1 - self.decay) * g
        state.fresh = (a, g, t)

    def refresh(self, layer: Layer, state: State, lam: float) -> None:
        if not isinstance(layer, (Dense, Conv)):
            return
        state.accepted += 1
        if self.method == "eigen":
            state.inverse = (c.eigen(*state.fresh[:2]), state.fresh[2])
        else:
            state.inverse = c.inverses(*state.fresh, lam, self.mode, None)

    def precondition(self, lam: float, lr: float) -> dict[str, Array]:
        out = {}
        for i, layer in enumerate(self.net.layers):
            d, state = dict(layer.d), self.states[id(layer)]
            if isinstance(layer, (Dense, Conv)):
                bias = "bias" in layer.p
                m = c.matrix(layer, bias)
                if self.method == "eigen":
                    v = c.eigen_precondition(m, *state.inverse, lam)
                else:
                    v = state.inverse[1] @ m @ state.inverse[0]
                d = _into(layer, v, bias)
            out.update({f"{i}.{k}": v for k, v in d.items()})
        return out


class Sgd(Base):
    """Momentum and decay alone."""

    def precondition(self, lam: float, lr: float) -> dict[str, Array]:
        return self.net.gradients()


class AdamW(Base):
    """Loshchilov & Hutter 2019, Algorithm 2, without decay; ``damping`` is its epsilon."""

    def __init__(self, net: Net, *, damping: float = 1e-8, **base) -> None:
        super().__init__(net, damping=damping, rest_epsilon=damping, **base)

    def step(self, x: Array, labels: Array) -> float:
        loss, lr = self.net.loss(x, labels), self.now(self.lr)
        self.k += 1
        for name, (layer, key) in self.net.named().items():
            layer.p[key] -= lr * self.adam(name, layer.d[key], self.k)
        return loss
