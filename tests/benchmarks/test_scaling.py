"""Messages on many ranks: from shapes, from compiled graphs, and in the documentation."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from mindspore import Tensor, nn
from places import IMPORTABLE, ROOT

from benchmarks import collectives, scaling
from benchmarks.ascend.graphs import Graphs
from benchmarks.scaling import Machine, inverse_flops, ring_seconds
from benchmarks.traffic import traffic
from mindspore_thor.optim import create_optimizer
from mindspore_thor.step.train_step import TrainStep


def triangle(d: int) -> int:
    """Numbers of a symmetric matrix, of an even dimension."""
    return (d + d % 2) * (d + d % 2 + 1) // 2


def test_traffic_of_thor_by_hand() -> None:
    """ResNet-20's layers, blocks of 72: weights, BatchNorm, factors as triangles, inverses."""
    graphs = Graphs.of("resnet20", "thor")
    found = traffic(graphs.step)
    weights = sum(int(np.prod(p.shape)) for p in graphs.step.net.trainable_params())
    channels = [16] * 7 + [32] * 6 + [64] * 6
    inputs = [3] + [16] * 6 + [16] + [32] * 5 + [32] + [64] * 5
    shapes = [(9 * c, o) for c, o in zip(inputs, channels)] + [(16, 32), (32, 64), (64, 10)]
    running = 4 * 2 * (sum(channels) + 32 + 64)  # means and variances, of the shortcuts as well
    assert found["plain"] == [4 * (weights + 1)]
    assert found["update"] == [running]
    factors, inverses, matrices = 0, 0, 0
    for pair in shapes:
        factors += 3  # uses, positions, samples
        for d in pair:
            size, count = (d, 1) if d <= 72 else (72, -(-d // 72))
            # Only matrices of 32 and more are sent as triangles in the factor step.
            factors += count * (triangle(size) if size >= 32 else size * size)
            inverses += count * triangle(size)
            matrices += count
    assert found["factor"] == [4 * (weights + 1 + factors)]
    assert found["inverse"] == [4 * (inverses + matrices)]


def test_fngd_sends_what_sgd_sends() -> None:
    sgd, fngd = (traffic(Graphs.of("resnet20", name).step) for name in ("sgd", "fngd"))
    gradients, running = sgd["plain"][:1], sgd["plain"][1:]
    assert fngd == {"plain": gradients, "factor": gradients, "update": running}


def small(method: str) -> Graphs:
    net = nn.SequentialCell(nn.Dense(40, 36), nn.BatchNorm1d(36), nn.ReLU(), nn.Dense(36, 3))
    options = {"thor": {"split_dim": 32}, "fngd": {"steps_per_epoch": 2}}.get(method, {})
    optimizer = create_optimizer(method, net, 0.1, **options)
    batch = Tensor(np.ones((4, 40), np.float32)), Tensor(np.zeros(4, np.int32))
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    return Graphs(TrainStep(net, loss, optimizer), batch)


# MindSpore decides at a process's first graph whether it writes graphs at all.
SCRIPT = """
import json, sys
import mindspore as ms
from benchmarks import collectives
from benchmarks.ascend.graphs import kinds_of
from mindspore_thor.parallel import communication
from test_scaling import small
ms.set_context(mode=ms.GRAPH_MODE)
method, ranks, rank = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
found = collectives.measure(lambda: small(method), kinds_of(method), ranks, rank)
assert communication.world() == (0, 1)
print("found", json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("method", "ranks", "rank"), [("thor", 256, 1), ("lngd", 8, 0)])
def test_compiled_graphs_send_the_same(method: str, ranks: int, rank: int) -> None:
    """The collectives in the compiled graphs are those that the shapes tell."""
    expected = traffic(small(method).step)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, method, str(ranks), str(rank)],
        env={**os.environ, "PYTHONPATH": IMPORTABLE},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("found "))
    found = json.loads(line[len("found ") :])
    sizes = {kind: [size for _, size, _ in items] for kind, (items, _) in found.items()}
    assert sizes == expected
    assert {name for items, _ in found.values() for name, _, _ in items} == {"AllReduce"}
    # In the fused messages: gamma and beta, the loss; two weights and two biases where they do not
    # travel layer by layer; with the update mean and variance.
    assert found["plain"][1] == 3 + (4 if method == "thor" else 0)
    assert found["update"][1] == 2


def test_collectives_are_read_from_a_graph() -> None:
    text = """
  %3(a) = AllReduce(%2) {instance name: all_reduce} primitive_attrs: {fusion: I64(2), op: "sum"}
      : (<Tensor[Float32], (7, 3)>) -> (<Tensor[Float32], (7, 3)>)
  %4(b) = MatMul(%3, %3) : (<Tensor[Float32], (7, 3)>) -> (<Tensor[Float32], (7, 7)>)
  %5(c) = AllGather(%4) primitive_attrs: {} : (<Tensor[Float16], (5)>) -> (<Tensor[Float16], (10)>)
"""
    assert collectives.read_collectives(text) == [("AllReduce", 84, 2), ("AllGather", 10, 0)]


def test_ring_and_products_by_hand() -> None:
    machine = Machine(bandwidth=1e9, latency=1e-6, flops=1e12)
    assert ring_seconds(8_000_000, 4, machine) == pytest.approx(6 * (2e-3 + 1e-6))
    assert inverse_flops([2, 3], steps=4) == (2 * 4 + 1) * 2 * (8 + 27)


def test_the_page_is_what_the_command_prints() -> None:
    assert scaling.main(["--check"]) == 0


@pytest.mark.parametrize("arguments", [["--ranks", "8", "--rank", "8"], ["--ranks", "x"]])
def test_wrong_arguments_end_in_one_line(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "collectives.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
