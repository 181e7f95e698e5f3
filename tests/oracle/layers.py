"""Small networks in float64 NumPy with hand-written forward and backward passes.

A layer keeps the input ``x`` and the gradient ``ds`` of its linear map's output from the latest
pass, which is all that curvature needs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

Array = np.ndarray


class Layer(ABC):
    """A differentiable map with parameters ``p`` and their gradients ``d``."""

    def __init__(self, **parameters: Array) -> None:
        self.p = {
            k: np.asarray(v, np.float64).copy() for k, v in parameters.items() if v is not None
        }
        self.d: dict[str, Array] = {}

    @abstractmethod
    def forward(self, x: Array) -> Array:
        """The output."""

    @abstractmethod
    def backward(self, dy: Array) -> Array:
        """The input's gradient; fills ``d``."""


class Relu(Layer):
    """x where positive, ``slope`` x elsewhere."""

    def __init__(self, slope: float = 0.0) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Array) -> Array:
        self.factor = np.where(x > 0, 1.0, self.slope)
        return x * self.factor

    def backward(self, dy: Array) -> Array:
        return dy * self.factor


class Flatten(Layer):
    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return x.reshape(x.shape[0], -1)

    def backward(self, dy: Array) -> Array:
        return dy.reshape(self.shape)


class TokenMean(Layer):
    """[N, S, d] -> [N, d]."""

    def forward(self, x: Array) -> Array:
        self.tokens = x.shape[1]
        return x.mean(1)

    def backward(self, dy: Array) -> Array:
        return np.repeat(dy[:, None], self.tokens, 1) / self.tokens


class Dense(Layer):
    """y = act(x W^T + b) on the last axis."""

    def __init__(
        self, weight: Array, bias: Array | None = None, activation: Layer | None = None
    ) -> None:
        super().__init__(weight=weight, bias=bias)
        self.activation = activation

    def forward(self, x: Array) -> Array:
        self.x = x
        s = x @ self.p["weight"].T + self.p.get("bias", 0.0)
        return self.activation.forward(s) if self.activation else s

    def backward(self, dy: Array) -> Array:
        ds = self.activation.backward(dy) if self.activation else dy
        self.ds = ds
        w = self.p["weight"]
        flat = ds.reshape(-1, w.shape[0])
        self.d = {"weight": flat.T @ self.x.reshape(-1, w.shape[1])}
        if "bias" in self.p:
            self.d["bias"] = flat.sum(0)
        return ds @ w


class Conv(Layer):
    """2-D cross-correlation: ``pad`` is (top, bottom, left, right) or "same"."""

    def __init__(
        self,
        weight: Array,
        bias: Array | None = None,
        stride: tuple[int, int] = (1, 1),
        pad: tuple[int, int, int, int] | str = (0, 0, 0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
    ) -> None:
        super().__init__(weight=weight, bias=bias)
        self.stride, self.pad, self.dilation, self.groups = stride, pad, dilation, groups

    def _taps(self, height: int, width: int) -> list[tuple[int, int, slice, slice]]:
        kh, kw = self.p["weight"].shape[2:]
        (sh, sw), (dh, dw) = self.stride, self.dilation
        if self.pad == "same":
            total_h = max((-(-height // sh) - 1) * sh + dh * (kh - 1) + 1 - height, 0)
            total_w = max((-(-width // sw) - 1) * sw + dw * (kw - 1) + 1 - width, 0)
            pad = (total_h // 2, total_h - total_h // 2, total_w // 2, total_w - total_w // 2)
        else:
            pad = self.pad
        self.margins = pad
        self.out = (
            (height + pad[0] + pad[1] - dh * (kh - 1) - 1) // sh + 1,
            (width + pad[2] + pad[3] - dw * (kw - 1) - 1) // sw + 1,
        )
        return [
            (
                i,
                j,
                slice(i * dh, i * dh + (self.out[0] - 1) * sh + 1, sh),
                slice(j * dw, j * dw + (self.out[1] - 1) * sw + 1, sw),
            )
            for i in range(kh)
            for j in range(kw)
        ]

    def patches(self, x: Array) -> Array:
        """[N, groups, C/groups * kh * kw, T], features ordered (C, kh, kw)."""
        n, c, height, width = x.shape
        kh, kw = self.p["weight"].shape[2:]
        taps = self._taps(height, width)
        t, b, left, right = self.margins
        padded = np.pad(x, ((0, 0), (0, 0), (t, b), (left, right)))
        out = np.zeros((n, c, kh, kw, *self.out))
        for i, j, rows, cols in taps:
            out[:, :, i, j] = padded[:, :, rows, cols]
        return out.reshape(n, self.groups, c // self.groups * kh * kw, -1)

    def forward(self, x: Array) -> Array:
        self.x = x
        n = x.shape[0]
        w = self.p["weight"]
        matrix = w.reshape(self.groups, w.shape[0] // self.groups, -1)
        y = np.einsum("god,ngdt->ngot", matrix, self.patches(x))
        y = y.reshape(n, w.shape[0], *self.out)
        return y + self.p["bias"][:, None, None] if "bias" in self.p else y

    def backward(self, dy: Array) -> Array:
        self.ds = dy
        n = dy.shape[0]
        w = self.p["weight"]
        c_out, c_in, kh, kw = w.shape
        g = dy.reshape(n, self.groups, c_out // self.groups, -1)
        patches = self.patches(self.x)
        self.d = {"weight": np.einsum("ngot,ngdt->god", g, patches).reshape(w.shape)}
        if "bias" in self.p:
            self.d["bias"] = dy.sum((0, 2, 3))
        matrix = w.reshape(self.groups, c_out // self.groups, -1)
        columns = np.einsum("god,ngot->ngdt", matrix, g)
        height, width = self.x.shape[2:]
        columns = columns.reshape(n, self.groups * c_in, kh, kw, *self.out)
        t, b, left, right = self.margins
        dx = np.zeros((n, self.groups * c_in, height + t + b, width + left + right))
        for i, j, rows, cols in self._taps(height, width):
            dx[:, :, rows, cols] += columns[:, :, i, j]
        return dx[:, :, t : t + height, left : left + width]


class Embedding(Layer):
    """ids [N, S] -> [N, S, d]."""

    def __init__(self, embedding_table: Array) -> None:
        super().__init__(embedding_table=embedding_table)

    def forward(self, x: Array) -> Array:
        self.x = x
        return self.p["embedding_table"][x]

    def backward(self, dy: Array) -> Array:
        self.ds = dy
        grad = np.zeros_like(self.p["embedding_table"])
        np.add.at(grad, self.x.reshape(-1), dy.reshape(-1, dy.shape[-1]))
        self.d = {"embedding_table": grad}
        return np.zeros(self.x.shape)


class LayerNorm(Layer):
    """Over the last axis."""

    def __init__(self, gamma: Array, beta: Array, epsilon: float) -> None:
        super().__init__(gamma=gamma, beta=beta)
        self.epsilon = epsilon

    def forward(self, x: Array) -> Array:
        self.inv = 1 / np.sqrt(x.var(-1, keepdims=True) + self.epsilon)
        self.z = (x - x.mean(-1, keepdims=True)) * self.inv
        return self.z * self.p["gamma"] + self.p["beta"]

    def backward(self, dy: Array) -> Array:
        axes = tuple(range(dy.ndim - 1))
        self.d = {"gamma": (dy * self.z).sum(axes), "beta": dy.sum(axes)}
        dz = dy * self.p["gamma"]
        mean, overlap = dz.mean(-1, keepdims=True), (dz * self.z).mean(-1, keepdims=True)
        return self.inv * (dz - mean - self.z * overlap)


class BatchNorm(Layer):
    """Training mode, [N, C, H, W]."""

    def __init__(self, gamma: Array, beta: Array, epsilon: float) -> None:
        super().__init__(gamma=gamma, beta=beta)
        self.epsilon = epsilon

    def forward(self, x: Array) -> Array:
        axes = (0, 2, 3)
        self.inv = 1 / np.sqrt(x.var(axes, keepdims=True) + self.epsilon)
        self.z = (x - x.mean(axes, keepdims=True)) * self.inv
        return self.z * self.p["gamma"][:, None, None] + self.p["beta"][:, None, None]

    def backward(self, dy: Array) -> Array:
        axes = (0, 2, 3)
        self.d = {"gamma": (dy * self.z).sum(axes), "beta": dy.sum(axes)}
        dz = dy * self.p["gamma"][:, None, None]
        mean, overlap = dz.mean(axes, keepdims=True), (dz * self.z).mean(axes, keepdims=True)
        return self.inv * (dz - mean - self.z * overlap)


class Net:
    """Layers in sequence under the mean softmax cross entropy."""

    def __init__(self, layers: list[Layer]) -> None:
        self.layers = layers

    def forward(self, x: Array) -> Array:
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def loss(self, x: Array, labels: Array) -> float:
        """Forward and backward; afterwards every layer holds its ``d``."""
        logits = self.forward(x)
        logits = logits - logits.max(1, keepdims=True)
        p = np.exp(logits)
        p /= p.sum(1, keepdims=True)
        n = len(labels)
        value = -np.log(p[np.arange(n), labels]).mean()
        dy = p.copy()
        dy[np.arange(n), labels] -= 1
        dy /= n
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return float(value)

    def named(self) -> dict[str, tuple[Layer, str]]:
        """'index.key' -> (layer, key), in order."""
        return {f"{i}.{k}": (layer, k) for i, layer in enumerate(self.layers) for k in layer.p}

    def weights(self) -> dict[str, Array]:
        return {name: layer.p[k].copy() for name, (layer, k) in self.named().items()}

    def gradients(self) -> dict[str, Array]:
        return {name: layer.d[k].copy() for name, (layer, k) in self.named().items()}
