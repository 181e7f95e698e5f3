"""FNGD's weights per sample in checkpoints of several ranks, with the other ranks played."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from mindspore_thor import FNGD, THOR, TrainStep
from mindspore_thor.parallel import rank_state

SLOTS, BATCH = 3, 4


def step_of(batch: int) -> TrainStep:
    net = nn.SequentialCell(nn.Dense(5, 4), nn.ReLU(), nn.Dense(4, 2))
    optimizer = FNGD(net, 0.1, steps_per_epoch=SLOTS, batch_size=batch)
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    return TrainStep(net, loss, optimizer)


def test_two_ranks_weights_are_those_of_the_global_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sample k of rank r is sample 2 k + r; the file fits one process, and both ranks again."""
    whole = np.random.default_rng(0).random((SLOTS, BATCH)).astype(np.float32)
    ranks = [step_of(BATCH // 2) for _ in range(2)]
    for rank, step in enumerate(ranks):
        for parameter in step.optimizer.rank_state():
            ops.assign(parameter, Tensor(np.ascontiguousarray(whole[:, rank::2])))
    sent: list[list[np.ndarray]] = [[], []]
    for rank in (1, 0):
        monkeypatch.setattr(rank_state, "world", lambda rank=rank: (rank, 2))

        def total(values: np.ndarray, rank: int = rank) -> np.ndarray:
            sent[rank].append(values)
            return values + sent[1][len(sent[rank]) - 1] if rank == 0 else values

        monkeypatch.setattr(rank_state, "sum_over_ranks", total)
        saved = rank_state.gather_state(ranks[rank].parameters_dict(), ranks[rank].optimizer)
    names = [parameter.name for parameter in ranks[0].optimizer.rank_state()]
    assert len(names) == 2
    for name in names:
        np.testing.assert_array_equal(saved[name].asnumpy(), whole)

    single = step_of(BATCH)
    monkeypatch.setattr(rank_state, "world", lambda: (0, 1))
    alone = rank_state.spread_state(saved, single.optimizer)
    expected = single.parameters_dict()
    assert {n: v.shape for n, v in alone.items()} == {n: p.shape for n, p in expected.items()}
    for rank in range(2):
        monkeypatch.setattr(rank_state, "world", lambda rank=rank: (rank, 2))
        own = rank_state.spread_state(saved, ranks[rank].optimizer)
        for name in names:
            np.testing.assert_array_equal(own[name].asnumpy(), whole[:, rank::2])


def test_other_methods_state_is_saved_as_it_is() -> None:
    net = nn.Dense(3, 2)
    step = TrainStep(net, nn.MSELoss(), THOR(net, 0.1))
    state: dict[str, Parameter] = step.parameters_dict()
    probes = {parameter.name for parameter in step.optimizer.scratch()}
    kept = {name: parameter for name, parameter in state.items() if name not in probes}
    assert probes and len(kept) == len(state) - len(probes)
    gathered = rank_state.gather_state(state, step.optimizer)
    assert set(gathered) == set(kept)
    assert all(gathered[name] is parameter for name, parameter in kept.items())
    spread = rank_state.spread_state(kept, step.optimizer)
    assert set(spread) == set(state)
    assert all(spread[name] is parameter for name, parameter in state.items())
