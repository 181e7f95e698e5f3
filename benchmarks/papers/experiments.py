"""The runs behind the pictures: each returns plain values, ready to be stored as JSON."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import models
from benchmarks.harness.spec import ROOT
from mindspore_thor.run.build import Session, build_session
from mindspore_thor.run.config import load_config, parse_overrides

_INTERVAL = 5
# Fixed here, not taken from the shipped recipes: those may change, and the pictures would no longer
# be what the command draws.
_RESNET20 = """
model: {name: resnet20, width: 0.5}
data: {name: fashion_mnist_sample, batch_size: 128, augment: true}
optimizer:
  name: thor
  momentum: 0.9
  weight_decay: 5e-4
  split_dim: 72
  factor_interval: 10
  inverse_interval: 20
learning_rate: {schedule: polynomial, initial: 0.07, end_epoch: 11, power: 2}
damping: {schedule: exponential, initial: 0.03, rho: 0.87}
train: {epochs: 10}
"""
_SMALL_MLP = """
model: {name: mlp, hidden: [12, 8]}
data: {name: fashion_mnist_sample, batch_size: 250, augment: false}
optimizer: {name: lngd, momentum: 0.9, sampling: analytic, ema_old_weight: 0.0, mu: 1e-3}
learning_rate: {schedule: constant, value: 0.03}
"""


def _session(recipe: Path, *flags: str, method: str | None = None) -> Session:
    config = load_config(recipe, models, parse_overrides(list(flags)), method)
    return build_session(config, models)


def _session_of(text: str, *flags: str) -> Session:
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text(text, encoding="utf-8")
        return _session(recipe, *flags)


def _resnet20(method: str, *flags: str) -> Session:
    """ResNet-20 at half width on the bundled sample, by the method's own recipe."""
    recipe = ROOT / "models" / "resnet" / "resnet20_fashion_mnist_sample.yaml"
    return _session(recipe, "--model.width", "0.5", *flags, method=method)


def _train(session: Session, epochs: int) -> Iterator[tuple[int, float]]:
    """Train, and yield (steps done, loss) after every step."""
    done = 0
    for epoch in range(epochs):
        for batch in session.train_data.epoch(epoch):
            inputs = session.config.task.inputs(*batch)
            loss = float(session.step(*inputs).asnumpy())
            done += 1
            yield done, loss
        print(f"epoch {epoch + 1}/{epochs}: loss {loss:.4f}", file=sys.stderr, flush=True)


def thor_factors(epochs: int) -> dict[str, Any]:
    """Norms of A and G, and tr(F + lam I), of every layer (THOR, Figures 1 to 3).

    THOR_NT refreshes everything, so that the trace rule does not change what it is to judge.

    Args:
        epochs: Length of the run; factors are taken every five steps.

    Returns:
        ``steps`` and, for each layer, its ``norm_a``, ``norm_g`` (Frobenius) and ``trace``
        (Eq. 8 in its literal form, with the step's damping).
    """
    interval = str(_INTERVAL)
    session = _session_of(
        _RESNET20,
        *("--optimizer.trace_thresholds", "[0.0, 0.0]"),
        *("--optimizer.factor_interval", interval, "--optimizer.inverse_interval", interval),
        *("--optimizer.split_dim", "null"),
    )
    optimizer = session.optimizer
    steps: list[int] = []
    layers: dict[str, dict[str, list[float]]] = {
        name: {"norm_a": [], "norm_g": [], "trace": []} for name in optimizer.layer_names
    }
    damping = optimizer.damping
    lam = float(damping(optimizer.global_step).asnumpy().item())
    for done, _ in _train(session, epochs):
        if (done - 1) % _INTERVAL == 0:
            steps.append(done - 1)
            for name, curvature in zip(optimizer.layer_names, optimizer.curvatures):
                a, g, positions = _whole_factors(curvature)
                size = a.shape[0] * g.shape[0]
                row = layers[name]
                row["norm_a"].append(float(np.linalg.norm(a)))
                row["norm_g"].append(float(np.linalg.norm(g)))
                row["trace"].append(float(positions * np.trace(a) * np.trace(g) + lam * size))
        lam = float(damping(optimizer.global_step).asnumpy().item())
    return {"steps": steps, "layers": layers}


def _whole_factors(curvature: Any) -> tuple[np.ndarray, np.ndarray, float]:
    """A and G of an ungrouped layer without split, and its positions T."""
    statistics = curvature.statistics.asnumpy().astype(np.float64)
    d_in, d_out = curvature.right.dim, curvature.left.dim
    a = statistics[: curvature.end_a].reshape(d_in, d_in)
    g = statistics[curvature.end_a : curvature.end_g].reshape(d_out, d_out)
    return a, g, float(statistics[curvature.end + 1])


def thor_split(epochs: int) -> dict[str, Any]:
    """Test accuracy with split and with whole factors, everything else alike (THOR, Figure 4).

    Args:
        epochs: Length of each run.

    Returns:
        ``runs``: for each split dimension, "whole" last, the accuracy and mean loss per epoch.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for split in ("18", "72", "null"):
        session = _session_of(_RESNET20, "--optimizer.split_dim", split)
        evaluator = session.config.task.evaluation(
            session.net, session.eval_data, session.config.data
        )
        per_epoch = session.train_data.steps_per_epoch
        accuracies, losses, mean = [], [], []
        for done, loss in _train(session, epochs):
            losses.append(loss)
            if done % per_epoch == 0:
                values = evaluator()
                assert values is not None
                accuracies.append(values["top_1_accuracy"])
                mean.append(float(np.mean(losses[-per_epoch:])))
        name = "whole" if split == "null" else split
        found[name] = {"top_1_accuracy": accuracies, "loss": mean}
    return {"runs": found}


def fngd_weights(epochs: int) -> dict[str, Any]:
    """FNGD's weights on the samples, w_n = N c~_n, over several epochs without any sharing.

    Sharing assumes that the weights of one epoch serve the next ones. Here every step computes its
    own: the slots are as many as the steps of the whole run.

    Args:
        epochs: Length of the run.

    Returns:
        ``steps_per_epoch`` and, for each layer, the quartiles of the batch's weights in every step.
    """
    steps = epochs * _resnet20("sgd").train_data.steps_per_epoch
    session = _resnet20("fngd", "--optimizer.steps_per_epoch", str(steps))
    optimizer = session.optimizer
    for _ in _train(session, epochs):
        pass
    layers = {}
    for name, curvature in zip(optimizer.layer_names, optimizer.curvatures):
        quartiles = np.quantile(curvature.store.asnumpy(), (0.25, 0.5, 0.75), axis=1)
        layers[name] = [[float(value) for value in row] for row in quartiles]
    return {"steps_per_epoch": session.train_data.steps_per_epoch, "layers": layers}


def lngd_fisher(epochs: int) -> dict[str, Any]:
    """The exact Fisher block of a small Dense layer and LNGD's Phi (x) Psi of it.

    The net is an MLP 784-12-8-10; the layer is the second one, with its bias: 8 x 13. After some
    training one batch's factors are taken without averaging. "exact" is E[a a^T (x) diag(g^2)] of
    the layer-wise distribution on that batch, in float64, from the net's weights.

    Args:
        epochs: Length of the training before.

    Returns:
        ``exact`` and ``approximate``, [104, 104], over the layer's matrix row by row.
    """
    session = _session_of(_SMALL_MLP, "--train.epochs", str(epochs))
    for _ in _train(session, epochs):
        pass
    images, labels = next(session.train_data.epoch(epochs))
    curvature = session.optimizer.curvatures[1]
    dense = [cell for cell in session.net.layers if hasattr(cell, "has_bias")]
    weights = [(d.weight.asnumpy().astype(float), d.bias.asnumpy().astype(float)) for d in dense]
    session.step(*session.config.task.inputs(images, labels))  # collects this batch's factors
    x = images.asnumpy().reshape(len(labels), -1).astype(float)
    a = np.maximum(x @ weights[0][0].T + weights[0][1], 0.0)
    a = np.concatenate((a, np.ones((len(a), 1))), 1)
    squares = (a[:, :-1] @ weights[1][0].T + weights[1][1] > 0).astype(float)
    units, inputs = squares.shape[1], a.shape[1]
    exact = np.zeros((units, inputs, units, inputs))
    for unit in range(units):
        exact[unit, :, unit, :] = (a * squares[:, unit : unit + 1]).T @ a / len(a)
    phi, psi = curvature.factor_phi().asnumpy()[0], curvature.factor_psi().asnumpy()[0]
    found = {
        "exact": exact.reshape(units * inputs, units * inputs),
        "approximate": np.kron(np.diag(psi), phi),
    }
    return {name: _short(matrix) for name, matrix in found.items()}


def _short(matrix: np.ndarray) -> list[list[float]]:
    """Six digits are plenty for a picture."""
    return [[float(f"{value:.6g}") for value in row] for row in matrix]


EXPERIMENTS: dict[str, tuple[Callable[[int], dict[str, Any]], int]] = {
    "thor_factors": (thor_factors, 4),
    "thor_split": (thor_split, 4),
    "fngd_weights": (fngd_weights, 3),
    "lngd_fisher": (lngd_fisher, 3),
}
"""Name -> the run and how many epochs it takes by default."""
