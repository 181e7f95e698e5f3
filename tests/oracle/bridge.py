"""From a MindSpore ``nn.SequentialCell`` to the oracle's net; knows MindSpore, not the package."""

from __future__ import annotations

import numpy as np
from mindspore import Parameter, Tensor, nn

from oracle import layers as o


class TokenMean(nn.Cell):
    """[N, S, d] -> [N, d]."""

    def construct(self, x):
        return x.mean(1)


class Line(nn.Cell):
    """[N, C, 1, L] -> [N, C, L]; the oracle stays with images of height 1."""

    def construct(self, x):
        return x.squeeze(2)


def _value(p: Parameter | None) -> np.ndarray | None:
    return None if p is None else p.asnumpy()


def _pad(cell: nn.Conv2d) -> tuple[int, int, int, int] | str:
    if cell.pad_mode == "same":
        return "same"
    if cell.pad_mode == "valid":
        return (0, 0, 0, 0)
    return (cell.padding,) * 4 if isinstance(cell.padding, int) else tuple(cell.padding)


def translate(cell: nn.Cell) -> o.Layer:
    """One MindSpore cell as an oracle layer with the same weights."""
    if isinstance(cell, nn.Dense):
        act = None if cell.activation is None else translate(cell.activation)
        return o.Dense(_value(cell.weight), _value(cell.bias) if cell.has_bias else None, act)
    if isinstance(cell, (nn.Conv1d, nn.Conv2d)):
        bias = _value(cell.bias) if cell.has_bias else None
        return o.Conv(_value(cell.weight), bias, cell.stride, _pad(cell), cell.dilation, cell.group)
    if isinstance(cell, nn.Embedding):
        return o.Embedding(_value(cell.embedding_table))
    if isinstance(cell, nn.LayerNorm):
        return o.LayerNorm(_value(cell.gamma), _value(cell.beta), cell.epsilon)
    if isinstance(cell, nn.BatchNorm2d):
        return o.BatchNorm(_value(cell.gamma), _value(cell.beta), cell.eps)
    if isinstance(cell, Line):
        return o.Relu(1.0)
    if isinstance(cell, nn.LeakyReLU):
        return o.Relu(float(cell.alpha))
    return {"ReLU": o.Relu, "Flatten": o.Flatten, "TokenMean": o.TokenMean}[type(cell).__name__]()


def oracle_net(net: nn.SequentialCell) -> o.Net:
    """The whole net, parameters named ``index.key`` as MindSpore names them."""
    return o.Net([translate(cell) for cell in net])


def randomise(net: nn.Cell, seed: int, scale: float = 1.0) -> nn.Cell:
    """Deterministic weights: kernels N(0, scale^2/fan_in), the rest away from their defaults."""
    rng = np.random.default_rng(seed)
    for p in net.get_parameters():
        if not p.requires_grad:
            continue
        w = rng.standard_normal(p.shape)
        w = scale * w / np.sqrt(np.prod(p.shape[1:])) if len(p.shape) > 1 else 0.2 * w
        if p.name.endswith("gamma"):
            w = 1 + w
        p.set_data(Tensor(w.astype(np.float32)))
    return net


def largest_error(
    net: nn.Cell, before: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> dict[str, float]:
    """Error of the change of every weight, relative to the largest entry of the expected change.

    ``before`` and ``expected`` (the oracle's new weights) are float64.
    """
    errors = {}
    now = {p.name: p.asnumpy().astype(np.float64) for p in net.trainable_params()}
    assert set(now) == set(expected)
    for name, new in expected.items():
        change = new - before[name]
        errors[name] = float(np.abs(now[name] - before[name] - change).max() / np.abs(change).max())
    return errors
