"""What no compiled graph may hold: calls into Python, and slices that the CPU copies slowly."""

from __future__ import annotations

from pathlib import Path

import pytest
from graphs import compiled_graphs, operators

SCRIPT = """
import sys
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
import mindspore_thor as mt

ms.set_context(mode=ms.GRAPH_MODE)
x = np.random.default_rng(0).standard_normal((8, 2, 4, 4)).astype(np.float32)
batch = Tensor(x), Tensor(np.arange(8).astype(np.int32) % 3)
loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")


def make(method):
    net = nn.SequentialCell(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dense(64, 3)
    )
    options = {"split_dim": 4} if method == "THOR" else {}
    return mt.TrainStep(net, loss, getattr(mt, method)(net, 0.1, **options))


for method in sys.argv[1:]:
    make(method)(*batch)
    make(method).whole(*batch)
"""


@pytest.mark.slow
def test_no_graph_calls_python_or_slices_slowly(tmp_path: Path) -> None:
    """The graphs of the host's path, and the one that does everything, as data sinking needs it."""
    methods = ["THOR", "EKFAC"]
    graphs = compiled_graphs(SCRIPT, tmp_path, *methods)
    # The capture, the refresh, the update and the whole step of each method.
    assert len(graphs) >= 4 * len(methods)
    assert sum("MatrixInverse" in text for text in graphs) >= 2
    for text in graphs:
        assert "PyExecute" not in text and "PyInterpret" not in text
        # What indexing compiles to, see linalg/slices.py.
        assert operators(text)["StridedSlice"] == 0
    assert sum(operators(text)["Slice"] for text in graphs) > 0
