"""Two processes with half batches against the formulas with whole batches, for every method.

One ``msrun`` job trains with all methods, because starting one takes 15 to 25 seconds; another has
four processes in two teams. The oracle
of tests/oracle takes the whole batches; EKFAC's needs the program's own eigenvectors and LNGD's its
random numbers, so there one process is the reference. That one process agrees with its oracle is in
the methods' own files.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
from oracle.baselines import Eva, Shampoo, Tkfac
from oracle.bridge import oracle_net
from oracle.natural import Fngd
from oracle.optimizers import AdamW, Base, Kfac, Sgd, Thor
from oracle.rivals import Muon, Soap
from places import ROOT
from ranks import equality

from mindspore_thor.parallel.communication import world

pytestmark = pytest.mark.slow


# The two differ by float32's rounding: about 1e-7 of a mean over the batch in every gradient and
# statistic. Twenty steps add such errors up and the preconditioner multiplies them by
# its condition number, (largest eigenvalue + damping) / damping: some tens for the default damping
# of 0.03 (factors), 1e4 and more for Shampoo's epsilon of 1e-4. AdamW divides by the root of the
# second moment, which makes errors of tiny gradients as large as those of large ones.
# EKFAC collects and refreshes in every step here: eigenvectors of (nearly) equal eigenvalues are
# not determined, and S measured in one of them and used with a later batch differs. One process
# whose input is scaled by 1 + 2e-7 differs from itself by half after 20 steps with intervals of 2
# and 4, and by 1e-5 with intervals of 1.
# Errors are relative to the largest change of the weight in question.
# Muon multiplies what is small beside a matrix's norm by 3.4445 five times, some 485 in all.
TOLERANCES = {"sgd": 1e-5, "shampoo": 5e-3}
TOLERANCES.update(dict.fromkeys(("adamw", "grafted", "lngd_grafted", "muon", "soap"), 1e-3))
DEFAULT_TOLERANCE = 2e-4


def run_job(folder: Path, ranks: int, names: Iterable[str]) -> Path:
    """Train with these methods on so many processes; the folder with what they held at the end."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    # msrun starts "python" from PATH.
    environment = dict(os.environ, PYTHONPATH=str(ROOT), GLOG_v="3")
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = [
        *("msrun", f"--worker_num={ranks}", f"--local_worker_num={ranks}"),
        *(f"--master_port={port}", f"--log_dir={folder / 'logs'}", "--join=True"),
        *("--cluster_time_out=60", str(ROOT / "tests" / "ranks" / "equality.py"), str(folder)),
        *names,
    ]
    job = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=900
    )
    logs = "".join(p.read_text()[-3000:] for p in sorted((folder / "logs").glob("worker_*.log")))
    assert job.returncode == 0, f"{job.stdout[-2000:]}\n{job.stderr[-2000:]}\n{logs}"
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_job(tmp_path_factory.mktemp("ranks"), 2, [*equality.METHODS, *equality.TOKENS])


def load(folder: Path, name: str, rank: int) -> dict[str, np.ndarray]:
    with np.load(folder / f"{name}.{rank}.npz") as stored:
        return dict(stored)


def errors(
    name: str,
    got: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    prefixes: tuple[str, str] = ("", ""),
) -> dict[str, float]:
    """Error of every weight's change since the start, relative to its largest entry."""
    found = {}
    for p in equality.problem(name).trainable_params():
        before = p.asnumpy().astype(np.float64)
        change = expected[prefixes[1] + p.name] - before
        error = np.abs(got[prefixes[0] + p.name] - before - change).max()
        found[p.name] = float(error / np.abs(change).max())
    return found


def assert_same_state(folder: Path, name: str, ranks: int) -> None:
    """Bit by bit: so it is enough that rank 0 writes checkpoints, also after a bad step."""
    first = load(folder, name, 0)
    for rank in range(1, ranks):
        other = load(folder, name, rank)
        assert set(first) == set(other)
        for key, value in first.items():
            np.testing.assert_array_equal(value, other[key], err_msg=key)
    assert int(first["skipped"]) == 1
    assert not np.isfinite(first["losses"][equality.BAD_STEP])


@pytest.mark.parametrize("name", equality.METHODS)
def test_both_ranks_hold_the_same_state(results, name) -> None:
    assert_same_state(results, name, 2)


ORACLES: dict[str, Callable[..., Base]] = {
    "sgd": Sgd,
    "adamw": AdamW,
    "thor": Thor,
    "thor_all": Thor,
    "kfac_inverse": Kfac,
    "kfac_eigen": Kfac,
    "tkfac": Tkfac,
    "eva": Eva,
    "shampoo": Shampoo,
    "grafted": Thor,
    # Whose momentum is their own.
    "muon": lambda net, momentum, **options: Muon(net, **options),
    "soap": lambda net, momentum, **options: Soap(net, **options),
}


def train_oracle(name: str, oracle: Base) -> list[float]:
    """The losses; a bad batch counts for the schedules and does nothing else."""
    losses = []
    for k, (x, labels) in enumerate(equality.data(name)):
        if k == equality.BAD_STEP:
            losses.append(np.nan)
            oracle.k += 1
        else:
            losses.append(oracle.step(x, labels))
    return losses


def assert_is_oracle(both: dict[str, np.ndarray], name: str, make: Callable[..., Base]) -> Base:
    """Weights, losses and schedules are those of the oracle, which is returned."""
    options = {k: v for k, v in equality.SETTINGS[name][1].items() if k != "inverse_share"}
    oracle = make(oracle_net(equality.problem(name)), lr=0.02, momentum=0.9, **options)
    losses = train_oracle(name, oracle)
    found = errors(name, both, oracle.net.weights())
    assert max(found.values()) < TOLERANCES.get(name, DEFAULT_TOLERANCE), found
    np.testing.assert_allclose(both["losses"], losses, rtol=1e-4)
    for key, value in both.items():
        if key == "next_factor":
            assert (value == oracle.next_factor).all()
        if key == "next_inverse":
            assert (value == oracle.next_inverse).all()
    return oracle


@pytest.mark.parametrize("name", ORACLES)
def test_two_half_batches_are_one_whole(results, name) -> None:
    both = load(results, name, 0)
    oracle = assert_is_oracle(both, name, ORACLES[name])
    if name.startswith("thor"):
        counts = [v for k, v in both.items() if k.endswith(".counts")]
        states = [oracle.states[id(layer)] for layer in oracle.net.layers]
        expected = [(s.accepted, s.kept) for s in states if s.accepted]
        # One array for each group of layers.
        assert [tuple(row[:2]) for v in counts for row in v] == expected


@pytest.mark.parametrize("name", equality.TEAMS)
def test_two_teams_of_two_ranks_are_one_process(tmp_path, name) -> None:
    """Each team inverts everything, each of its ranks a part of it."""
    folder = run_job(tmp_path, equality.FOUR, [name])
    assert_same_state(folder, name, equality.FOUR)
    assert_is_oracle(load(folder, name, 0), name, Kfac)


@pytest.mark.parametrize("name", ["ekfac", "lngd", "lngd_grafted"])
def test_two_processes_are_one(results, name) -> None:
    assert world() == (0, 1)
    both, alone = load(results, name, 0), equality.train(name)
    found = errors(name, both, alone)
    assert max(found.values()) < TOLERANCES.get(name, DEFAULT_TOLERANCE), found
    np.testing.assert_allclose(both["losses"], alone["losses"], rtol=1e-4)
    for key in alone:
        if key.endswith((".counts", "next_factor", "next_inverse")):
            np.testing.assert_array_equal(both[key], alone[key], err_msg=key)


@pytest.mark.parametrize("name", equality.TOKENS)
def test_ranks_with_different_numbers_of_tokens_are_one_process(results, name) -> None:
    """Means are over the tokens of both: 14 and 3 of them, in every batch."""
    first, second = load(results, name, 0), load(results, name, 1)
    alone = equality.train_tokens(name)
    np.testing.assert_allclose(first["losses"], alone["losses"], rtol=1e-5)
    start = {p.name: p.asnumpy().astype(np.float64) for p in equality.token_net().get_parameters()}
    for key, before in start.items():
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)
        change = alone[key] - before
        error = np.abs(first[key] - before - change).max() / np.abs(change).max()
        assert error < DEFAULT_TOLERANCE, (key, error)


def test_running_statistics_are_the_mean_of_the_shards(results) -> None:
    """m <- mu m + (1 - mu) mean over ranks of the shard's mean; the variance, unbiased, alike."""
    state = load(results, "norm", 0)
    mean, variance, mu = np.zeros(2), np.ones(2), equality.MOMENTUM
    for k, (x, _) in enumerate(equality.data("norm")):
        if k != equality.BAD_STEP:
            shards = [half.transpose(1, 0, 2, 3).reshape(2, -1) for half in np.split(x, 2)]
            mean = mu * mean + (1 - mu) * np.mean([s.mean(1) for s in shards], axis=0)
            of_shards = np.mean([s.var(1, ddof=1) for s in shards], axis=0)
            variance = mu * variance + (1 - mu) * of_shards
    np.testing.assert_allclose(state["0.moving_mean"], mean, atol=1e-5)
    np.testing.assert_allclose(state["0.moving_variance"], variance, rtol=1e-5)


class ShardedFngd(Fngd):
    """Every rank weighs its own samples by its own Gram matrix; gradients are averaged."""

    def step(self, x: np.ndarray, labels: np.ndarray) -> float:
        self.shards = list(zip(np.split(x, 2), np.split(labels, 2)))
        return super().step(x, labels)

    def precondition(self, lam: float, lr: float) -> dict[str, np.ndarray]:
        parts = []
        for x, labels in self.shards:
            self.net.loss(x, labels)
            parts.append(super().precondition(lam, lr))
        return {name: (parts[0][name] + parts[1][name]) / 2 for name in parts[0]}


def test_fngd_has_a_gram_matrix_per_rank(results) -> None:
    """Equal to an oracle whose Gram matrix has one diagonal block per shard."""
    oracle = ShardedFngd(oracle_net(equality.problem("fngd")), share="none", lr=0.02, momentum=0.9)
    train_oracle("fngd", oracle)
    found = errors("fngd", load(results, "fngd", 0), oracle.net.weights())
    assert max(found.values()) < DEFAULT_TOLERANCE, found


@pytest.mark.parametrize("name", equality.RESUMED)
def test_resuming_on_two_ranks_is_exact_and_on_one_equal(results, name) -> None:
    state = load(results, name, 0)
    alone = equality.resume(name, state)
    for key in alone:
        np.testing.assert_array_equal(state[f"resumed.{key}"], state[f"continued.{key}"])
    expected = state
    if name == "fngd":
        # One rank has another Gram matrix than two, whose has a block per shard.
        expected = {f"resumed.{k}": v for k, v in continued_fngd(state).items()}
    found = errors(name, alone, expected, prefixes=("", "resumed."))
    assert max(found.values()) < DEFAULT_TOLERANCE, found


def continued_fngd(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the oracle makes of a saved state, with whole batches."""
    oracle = Fngd(oracle_net(equality.problem("fngd")), share="none", lr=0.02, momentum=0.9)
    for name, (layer, key) in oracle.net.named().items():
        layer.p[key] = state[name].astype(np.float64)
        oracle.velocity[name] = state[f"fngd.moments.{name}"].astype(np.float64)
    for x, labels in equality.data("fngd", equality.MORE):
        oracle.step(x, labels)
    return oracle.net.weights()
