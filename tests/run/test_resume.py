"""Exact resume of every method, from every step, through the checkpoint files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor, nn
from oracle.bridge import randomise
from oracle.nets import batches
from oracle.training import cross_entropy

from mindspore_thor import DynamicLossScale, TrainStep
from mindspore_thor.optim import METHODS, create_optimizer, optimizer_options
from mindspore_thor.optim.schedules import ExponentialDecay
from mindspore_thor.run.checkpoint import Position, read_state, save_checkpoint, state_file_of
from mindspore_thor.run.ckpt_file import assign

N = 6
STEPS = 7
# Whatever a method has of these. Statistics at steps 0, 2, 4, 6, refreshes at 0, 3, 6: the steps in
# between need what is stored. FNGD's first epoch ends after step 3.
COMMON: dict[str, Any] = {
    "weight_decay": 0.01,
    "factor_interval": 2,
    "inverse_interval": 3,
    "damping": ExponentialDecay(0.3, 0.5, 1),
    "steps_per_epoch": 3,
    "batch_size": N,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in METHODS},
    "fngd mean": ("fngd", {"share": "mean"}),
}
SCALED = ("fngd mean", "adamw")
"""With a loss scale that grows on the way."""


def small_net(seed: int) -> nn.Cell:
    """Dense layers of one shape, and BatchNorm, over which EKFAC passes twice."""
    layers = (nn.Dense(5, 5), nn.BatchNorm1d(5), nn.LeakyReLU(), nn.Dense(5, 5))
    return randomise(nn.SequentialCell(*layers), seed)


def build(case: str, seed: int, graphs: Path) -> TrainStep:
    """A step that keeps its graphs, as train.py's does: the second one loads them."""
    name, options = CASES[case]
    known = optimizer_options(name)
    options = {**{key: value for key, value in COMMON.items() if key in known}, **options}
    net = small_net(seed)
    rate = [0.1 * 0.9**k for k in range(STEPS)]
    scale = DynamicLossScale(initial=1024, window=2) if case in SCALED else None
    optimizer = create_optimizer(name, net, rate, **options)
    return TrainStep(net, cross_entropy(), optimizer, loss_scale=scale, compile_cache=graphs)


def contents(step: TrainStep) -> dict[str, bytes]:
    return {name: p.asnumpy().tobytes() for name, p in step.parameters_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_resuming_from_any_step_changes_no_bit(case: str, tmp_path: Path) -> None:
    data = batches(np.zeros((N, 5), np.float32), np.arange(N) % 3, STEPS)

    def run(step: TrainStep, start: int) -> dict[str, bytes]:
        for k in range(start, STEPS):
            step(*(Tensor(item) for item in data[k]))
            if start == 0:
                save_checkpoint(
                    tmp_path / f"net-1_{k + 1}.ckpt", (), step.parameters_dict(), Position()
                )
        return contents(step)

    whole = run(build(case, 1, tmp_path / "graphs"), 0)
    # Other weights to begin with; built once: later stops are loaded over a state of its own.
    other = build(case, 2, tmp_path / "graphs")
    for stop in (1, 4, 2, 3, 5, 6):
        path = state_file_of(tmp_path / f"net-1_{stop}.ckpt")
        assign(other.parameters_dict(), read_state(path)[1], path)
        found = run(other, stop)
        assert found.keys() == whole.keys()
        differing = [name for name, value in whole.items() if found[name] != value]
        assert not differing, f"after a stop at step {stop}"
