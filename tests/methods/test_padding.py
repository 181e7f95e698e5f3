"""Batches padded to a length are those of an oracle in float64 that never pads.

The net has dead tokens (no ReLU of a layer is on), rows beside tokens in one group of layers, and
an embedding; see tests/padded.py.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor, nn
from oracle.baselines import Ekfac, Eva, Shampoo, Tkfac
from oracle.layers import Dense
from oracle.natural import Fngd, Lngd
from oracle.optimizers import Base, Kfac, Thor
from padded import AT_THE_ENDS, INSIDE, errors_of, oracle_of, padded, targets_of, token_net
from steps import assert_close

from mindspore_thor import TokenMeanLoss, TrainStep
from mindspore_thor.optim import create_optimizer

METHODS: dict[str, tuple[type[Base], dict[str, Any]]] = {
    "thor": (Thor, {"damping": 0.3, "split_dim": 3}),
    "thor reduce": (Thor, {"damping": 0.3, "token_mode": "reduce"}),
    "kfac": (Kfac, {"kl_clip": None}),
    "kfac reduce": (Kfac, {"method": "inverse", "token_mode": "reduce", "kl_clip": 0.01}),
    "ekfac": (Ekfac, {}),
    "ekfac reduce": (Ekfac, {"token_mode": "reduce"}),
    "tkfac": (Tkfac, {}),
    "tkfac reduce": (Tkfac, {"token_mode": "reduce"}),
    "eva": (Eva, {"kl_clip": None}),
    "eva reduce": (Eva, {"kl_clip": None, "token_mode": "reduce"}),
    "fngd": (Fngd, {"share": "none"}),
    "lngd": (Lngd, {}),
    "shampoo": (Shampoo, {"epsilon": 0.1}),
}


def train(
    name: str,
    length: int,
    sentences: list[list[int]],
    marked: bool = True,
    left: bool = False,
    steps: int = 1,
) -> tuple[nn.Cell, Base, dict[str, float], TrainStep]:
    """The net, the oracle, and the errors of the changes of all weights after some steps."""
    oracle_class, options = METHODS[name]
    net = token_net(marked)
    known: dict[str, Any] = {"lr": 0.5, "momentum": 0.0, **options}
    sampled = {"sampling": "analytic"} if name == "lngd" else {}
    method = create_optimizer(name.split()[0], net, 0.5, momentum=0.0, **options, **sampled)
    step = TrainStep(net, TokenMeanLoss(), method)
    if name.startswith("ekfac"):
        known["basis"] = basis_of(step)
    oracle = oracle_class(oracle_of(net), **known)
    before = oracle.net.weights()
    if name.startswith("ekfac"):
        known["basis"].layers = [x for x in oracle.net.layers if isinstance(x, Dense)]
    targets = targets_of(sentences)
    for _ in range(steps):
        loss = step(Tensor(padded(sentences, length, left)), Tensor(padded(targets, length, left)))
        wanted = oracle.step([np.array(s) for s in sentences], [np.array(t) for t in targets])
        assert float(loss.asnumpy()) == pytest.approx(wanted, rel=1e-5)
    return net, oracle, errors_of(net, before, oracle.net.weights()), step


@functools.cache
def marked_run(name: str) -> tuple[nn.Cell, Base, dict[str, float], TrainStep]:
    """A step on sentences with dead tokens at their ends, which the net marks."""
    return train(name, 8, AT_THE_ENDS)


class basis_of:
    """The eigenvectors that the step has found, which the oracle checks and takes."""

    layers: list[Dense]

    def __init__(self, step: TrainStep) -> None:
        self.step = step

    def __call__(self, layer: Dense) -> list[np.ndarray]:
        found = self.step.optimizer.curvatures[self.layers.index(layer)]
        return [v.asnumpy().astype(np.float64) for v in (found.vectors_a, found.vectors_g)]


@pytest.mark.parametrize("name", METHODS)
def test_padding_changes_nothing(name) -> None:
    """Dead tokens at the ends, too, where the net marks them."""
    _, _, errors, _ = marked_run(name)
    assert_close(errors, 2e-5)


@pytest.mark.parametrize(
    ("name", "length", "left"),
    [("thor", 5, False), ("ekfac", 6, True), ("lngd", 6, False)],
)
def test_without_marks_it_is_told_from_its_place(name, length, left) -> None:
    """Another length, and padding on the left; dead tokens between others are counted."""
    _, _, errors, _ = train(name, length, INSIDE, marked=False, left=left)
    assert_close(errors, 2e-5)


def test_what_is_stored_are_means_over_real_tokens() -> None:
    """A~ of the first layer, whose input no weight of a Dense layer has touched, by hand."""
    _, _, _, step = marked_run("kfac")
    table = token_net().embedding.embedding_table.asnumpy().astype(np.float64)
    a = np.array([[*table[t], 1.0] for sentence in AT_THE_ENDS for t in sentence])
    found = step.optimizer.curvatures[0].factor_a().asnumpy()[0, 0]
    np.testing.assert_allclose(found, a.T @ a / len(a), rtol=1e-5, atol=1e-6)

    # Nothing enters from a batch that is padding alone.
    before = step.optimizer.curvatures[0].statistics.asnumpy().copy()
    nothing = Tensor(np.zeros((4, 8), np.int32))
    assert float(step(nothing, nothing).asnumpy()) == 0.0
    np.testing.assert_array_equal(step.optimizer.curvatures[0].statistics.asnumpy(), before)
