"""The state-memory benchmark counts what the optimizers hold."""

from __future__ import annotations

import pytest
from mindspore import nn

from benchmarks.memory import main, state_bytes
from mindspore_thor.optim import create_optimizer

DI, DO = 50, 70
WEIGHTS = DI * DO + DO
FACTORS = (DI + 1) ** 2 + DO**2  # the bias is a column of its own
BLOCKS = DI**2 + DO**2


@pytest.mark.parametrize(
    ("method", "options", "floats"),
    [
        ("sgd", {}, WEIGHTS),
        ("adamw", {}, 2 * WEIGHTS),
        ("kfac", {"method": "inverse"}, WEIGHTS + 2 * FACTORS),
        ("kfac", {"method": "inverse", "momentum": 0.0}, 2 * FACTORS),
        ("tkfac", {}, WEIGHTS + 2 * FACTORS),
        ("shampoo", {}, WEIGHTS + 2 * BLOCKS),
        ("nadamw", {}, 2 * WEIGHTS),
        # Momentum; AdamW has both moments of the bias.
        ("muon", {}, DI * DO + 2 * DO),
        ("soap", {}, 2 * WEIGHTS + 2 * BLOCKS),
        ("eva", {}, WEIGHTS + DI + 1 + DO),
    ],
)
def test_state_bytes(method: str, options: dict[str, object], floats: int) -> None:
    net = nn.SequentialCell(nn.Dense(DI, DO))
    optimizer = create_optimizer(method, net, 0.1, **options)
    # Counters, intervals and the like are a few dozen scalars.
    assert 4 * floats <= state_bytes(net, optimizer) < 4 * (floats + 60)


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--models", "resnet20", "--methods", "sgd,adamw"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["| sgd | 1.0 (1.0) |", "| adamw | 2.1 (2.0) |"]
    assert main(["--methods", "sdg"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown method 'sdg'")
