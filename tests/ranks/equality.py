"""Training a small net with every method on this rank's share of the batches.

Run by ``msrun`` with the folder for the results as its argument, and imported by the test for the
same training in one process.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mindspore as ms
import numpy as np
from compiling import make_compiling_cheaper
from mindspore import Tensor, nn, ops
from oracle.bridge import randomise
from padded import VOCABULARY, padded, targets_of, token_net

from mindspore_thor import TokenMeanLoss
from mindspore_thor.optim import create_optimizer
from mindspore_thor.parallel.communication import world
from mindspore_thor.step.train_step import TrainStep

STEPS = 20
BATCH = 8
BAD_STEP = 7
MOMENTUM = 0.875
RESUMED, MORE = ("thor", "ekfac", "fngd", "lngd"), 5
ANEW = "thor"
"""Resumed by a step of its own, which is compiled anew; the others go back to an earlier state."""
INTERVALS = {"factor_interval": 2, "inverse_interval": 4}
# Only sides whose eigenvectors are unique have a basis.
SHORT = {"max_preconditioner_dim": 3, "rest": None}
METHODS = {
    "sgd": ("sgd", {"weight_decay": 0.01}),
    "adamw": ("adamw", {}),
    "muon": ("muon", {"rest_learning_rate": 0.01, "rest_epsilon": 1e-3}),
    "soap": ("soap", {"inverse_interval": 4, "epsilon": 1e-3, **SHORT}),
    "thor": ("thor", {**INTERVALS, "split_dim": 8, "trace_thresholds": (0.25, 0.0)}),
    "thor_all": ("thor", {**INTERVALS, "inverse_share": "all"}),
    "kfac_inverse": ("kfac", {**INTERVALS, "method": "inverse"}),
    "kfac_eigen": ("kfac", {**INTERVALS, "method": "eigen"}),
    "ekfac": ("ekfac", {}),
    "tkfac": ("tkfac", INTERVALS),
    "eva": ("eva", {"factor_interval": 2}),
    "shampoo": ("shampoo", {**INTERVALS, "max_preconditioner_dim": 8}),
    "grafted": ("thor", {**INTERVALS, "split_dim": 8, "rest": "adamw", "grafting": "adamw"}),
    "fngd": ("fngd", {"share": "none"}),
    "lngd": ("lngd", {**INTERVALS, "weight_decay": 0.01}),
    "lngd_grafted": ("lngd", {**INTERVALS, "rest": "adamw", "grafting": "adamw"}),
    "norm": ("sgd", {}),
}
# On four ranks: two teams of two ranks, each of which divides all matrices.
FOUR, TEAMS = 4, {"kfac_teams": ("kfac", {**INTERVALS, "method": "inverse", "inverse_share": 2})}
SETTINGS = {**METHODS, **TEAMS}
ALIKE = frozenset(
    {"thor_all", "kfac_inverse", "kfac_eigen", "kfac_teams", "ekfac", "tkfac", "eva"}
    | {"grafted", "lngd_grafted", "muon", "shampoo"}
)
"""On two Dense layers of one shape, one group that the ranks divide: that compiles faster than a
convolution beside a Dense layer, on which the others are."""
# On padded batches, of whose tokens one rank has many times as many as the other.
TOKENS = {
    "tokens_thor": ("thor", {"damping": 0.3, "token_mode": "reduce"}),
    "tokens_ekfac": ("ekfac", {"damping": 0.3}),
}
LENGTHS = (8, 6, 1, 2)


def problem(name: str) -> nn.SequentialCell:
    """The net of a method; leaky ReLUs are exact on CPU, tanh is not.

    For "norm" a BatchNorm comes first, whose running statistics depend on the batches alone.
    """
    if name in ALIKE:
        layers = (nn.Flatten(), nn.Dense(8, 8), nn.LeakyReLU(), nn.Dense(8, 8))
        return randomise(nn.SequentialCell(*layers), 11)
    net = nn.SequentialCell(
        *([nn.BatchNorm2d(2, momentum=MOMENTUM)] if name == "norm" else []),
        nn.Conv2d(2, 3, 3, pad_mode="pad", padding=1, has_bias=True),
        nn.LeakyReLU(),
        nn.Flatten(),
        nn.Dense(48, 3),
    )
    return randomise(net, 11)


def data(name: str, steps: int = STEPS) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(4)
    size = 2 if name in ALIKE else 4
    return [
        (
            rng.standard_normal((BATCH, 2, size, size)).astype(np.float32),
            rng.integers(0, 3, BATCH).astype(np.int32),
        )
        for _ in range(steps)
    ]


def share(batch: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, Tensor]:
    """This rank's consecutive part of a batch."""
    rank, size = world()
    part = slice(rank * BATCH // size, (rank + 1) * BATCH // size)
    return Tensor(batch[0][part]), Tensor(batch[1][part])


def make(name: str, net: nn.Cell) -> TrainStep:
    method, options = SETTINGS[name]
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    return TrainStep(net, loss, create_optimizer(method, net, 0.02, **options))


def run(step: TrainStep, batches: list[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    return [float(step(*share(batch)).asnumpy()) for batch in batches]


def train_tokens(name: str, steps: int = 3) -> dict[str, np.ndarray]:
    """The weights after some steps, and the losses."""
    rank, size = world()
    method, options = TOKENS[name]
    net = token_net()
    step = TrainStep(net, TokenMeanLoss(), create_optimizer(method, net, 0.2, **options))
    rng = np.random.default_rng(6)
    losses = []
    for _ in range(steps):
        sentences = [rng.integers(1, VOCABULARY, n).tolist() for n in LENGTHS]
        mine = slice(rank * len(LENGTHS) // size, (rank + 1) * len(LENGTHS) // size)
        ids, targets = padded(sentences, 9)[mine], padded(targets_of(sentences), 9)[mine]
        losses.append(float(step(Tensor(ids), Tensor(targets)).asnumpy()))
    return {**state_of(net), "losses": np.array(losses)}


def state_of(cell: nn.Cell) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy().copy() for p in cell.get_parameters()}


@functools.lru_cache(maxsize=8)
def built(name: str, anew: bool) -> tuple[nn.Cell, TrainStep, dict[str, np.ndarray]]:
    """A net, its step, and all their state at the start: compiled once, or once more."""
    net = problem(name)
    step = make(name, net)
    return net, step, state_of(step)


def put(step: TrainStep, state: dict[str, np.ndarray]) -> None:
    for p in step.get_parameters():
        ops.assign(p, Tensor(state[p.name]))  # set_data would detach it from compiled graphs


def train(name: str, bad: bool = True, more: int = 0) -> dict[str, np.ndarray]:
    """All state after STEPS steps, and the losses; one step is bad on the last rank.

    With ``more`` also the weights after so many further steps, as ``continued.NAME``.
    """
    net, step, start = built(name, anew=False)
    put(step, start)
    batches = data(name)
    if bad:
        batches[BAD_STEP][0][-1, 0, 0, 0] = np.nan
    losses = run(step, batches)
    found = {**state_of(step), "losses": np.array(losses)}
    run(step, data(name, more))
    later = {f"continued.{k}": v for k, v in state_of(net).items()} if more else {}
    return {**found, **later}


def resume(name: str, state: dict[str, np.ndarray], steps: int = MORE) -> dict[str, np.ndarray]:
    """All of the net after some more steps from a state.

    By the step that has been elsewhere since: for what it computes, nothing but that state counts
    (tests/run/test_resume.py loads it into a step of its own).
    """
    net, step, _ = built(name, anew=name == ANEW)
    put(step, state)
    run(step, data(name, steps))
    return state_of(net)


if __name__ == "__main__":
    make_compiling_cheaper()
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    ms.communication.init()
    rank, _ = world()
    names = sys.argv[2:] or list(METHODS)
    for name in names:
        if name in TOKENS:
            np.savez(Path(sys.argv[1]) / f"{name}.{rank}.npz", **train_tokens(name))
            continue
        result = train(name, more=MORE if name in RESUMED else 0)
        if name in RESUMED:
            result.update({f"resumed.{k}": v for k, v in resume(name, result).items()})
        np.savez(Path(sys.argv[1]) / f"{name}.{rank}.npz", **result)
    print("rank", rank, "done", flush=True)
