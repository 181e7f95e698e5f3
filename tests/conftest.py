"""Shared set-up: a quiet MindSpore, a tiny data set on disk and a tiny recipe for it."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import struct
import tempfile
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
if "MINDSPORE_THOR_CACHE" not in os.environ:
    # Not the user's own compiled graphs; the workers and all commands of this run share these.
    _GRAPHS = tempfile.mkdtemp(prefix="graphs-")
    os.environ["MINDSPORE_THOR_CACHE"] = _GRAPHS
    atexit.register(shutil.rmtree, _GRAPHS, ignore_errors=True)

import mindspore as ms
import numpy as np
import pytest
from compiling import make_compiling_cheaper
from fake_study import FAKE_EVAL, FAKE_TRAIN

import mindspore_thor  # noqa: F401  (sets up oneDNN before the first primitive)

make_compiling_cheaper()

TRAIN_SIZE = 40
TEST_SIZE = 21  # not a multiple of the evaluation batch: the last batch is a partial one


# The files that take longest, longest first: a worker that begins one of them last would run on
# alone. scripts/run_tests.sh keeps this order.
LONGEST = (
    "test_ranks_equality",
    "test_user_code",
    "test_real_training",
    "test_ascend_dry_run",
    "test_padding",
    "test_resume",
    "test_lngd_step",
    "test_rest",
    "test_guard",
    "test_ekfac_oracle",
    "test_cli_train",
    "test_accumulate",
    "test_translate",
    "test_elsewhere",
    "test_pretrain",
    "test_fngd_step",
    "test_train_step",
    "test_thor_oracle",
    "test_kfac_oracle",
    "test_transformer",
    "test_two_ranks",
    "test_recipes",
    "test_study",
    "test_install",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first; the order within a file stays."""

    def place(item: pytest.Item) -> int:
        name = item.path.stem
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=place)


@pytest.fixture(autouse=True)
def _graph_mode() -> None:
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.fixture(autouse=True, scope="module")
def _little_to_collect() -> None:
    """Garbage is collected once a file, not among what stays for the whole run."""
    gc.collect()
    gc.freeze()


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(folder: Path, train: int = TRAIN_SIZE, test: int = TEST_SIZE) -> Path:
    """Write images whose bright row tells their class, in MNIST's files."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(3)
    for prefix, count in (("train", train), ("t10k", test)):
        labels = generator.integers(0, 10, count)
        images = generator.integers(0, 120, (count, 28, 28))
        for image, label in zip(images, labels):
            image[2 * label : 2 * label + 3] += 120
        write_idx(folder / f"{prefix}-images-idx3-ubyte", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels)
    return folder


RECIPE = """
model: {name: mlp, hidden: [12]}
data: {name: mnist, batch_size: 10, eval_batch_size: 8}
optimizer: {name: sgd, momentum: 0.9, weight_decay: 1e-4}
learning_rate: {schedule: polynomial, initial: 0.05, end_epoch: 4, power: 2}
train: {epochs: 2, seed: 5}
"""


@pytest.fixture(scope="session")
def mnist_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny MNIST: 4 batches of 10 for training, 21 test images."""
    return write_mnist(tmp_path_factory.mktemp("mnist"))


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipe of an MLP on the tiny MNIST; the data path is given on the command line."""
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a train.py of its own; the harness calls that one."""
    from benchmarks.harness import runs

    folder = tmp_path / "fake"
    folder.mkdir()
    (folder / "train.py").write_text(FAKE_TRAIN)
    (folder / "eval.py").write_text(FAKE_EVAL)
    monkeypatch.setattr(runs, "ROOT", folder)
    return folder
