"""Graphs that are kept between runs: the same bits, and never those of another setting."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mindspore as ms
import pytest
import steps
from mindspore import Tensor, nn, ops
from oracle.bridge import randomise

from mindspore_thor import TrainStep
from mindspore_thor.cache import compile_cache
from mindspore_thor.cache.compile_cache import key_of, open_cache
from mindspore_thor.cache.kept import KeptGraphs
from mindspore_thor.errors import UserError
from mindspore_thor.methods import CLASSES, METHODS, create_optimizer
from mindspore_thor.run.options import checked
from mindspore_thor.run.sections import TrainConfig

TESTS = Path(__file__).parents[1]


class Wobbly(nn.Cell):
    """Random in two ways: a seed that the cell holds, and one that is drawn while it compiles."""

    def __init__(self, net: nn.Cell) -> None:
        super().__init__()
        self.net = net
        self.dropout = nn.Dropout(p=0.3)

    def construct(self, x: Tensor) -> Tensor:
        return ops.dropout(self.net(self.dropout(x)), 0.2, True)


def _train(folder: str) -> dict[str, Any]:
    """A few steps of two methods -> counts, losses and weights."""
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(7)
    result: dict[str, Any] = {"loaded": [], "compiled": [], "bits": [], "told": []}
    alive = []  # MindSpore compiles a step anew when the one before it is collected meanwhile
    for second_order in (True, False):
        net, batches = steps.problem(5)
        loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
        if second_order:
            optimizer = steps.thor(net)
        else:
            optimizer = nn.Momentum(net.trainable_params(), 0.1, 0.9)
            net = Wobbly(net)
        step = TrainStep(net, loss, optimizer, compile_cache=folder)
        alive.append(step)
        assert step.store is not None
        step.store.tell = result["told"].append
        losses = [float(step(Tensor(x), Tensor(y)).asnumpy()).hex() for x, y in batches]
        assert not step.store.problem
        result["loaded"].append(step.store.loaded)
        result["compiled"].append(step.store.compiled)
        result["bits"] += losses
        result["bits"] += [p.asnumpy().tobytes().hex() for p in step.get_parameters()]
    return result


def _train_all(folder: str) -> dict[str, Any]:
    """Two steps of every method, with everything that grafting and the rest add."""
    ms.set_context(mode=ms.GRAPH_MODE)
    result: dict[str, Any] = {"loaded": {}, "compiled": {}, "bits": {}}
    alive = []
    for name in METHODS:
        options: dict[str, Any] = {"steps_per_epoch": 1} if name == "fngd" else {}
        if name in map(str.lower, CLASSES):
            options.update(rest="adamw", grafting="adamw")
        net = randomise(nn.SequentialCell(nn.Dense(5, 5)), 3)
        _, batches = steps.problem(2)
        loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
        optimizer = create_optimizer(name, net, 0.1, **options)
        step = TrainStep(net, loss, optimizer, compile_cache=folder)
        alive.append(step)
        losses = [float(step(Tensor(x), Tensor(y)).asnumpy()).hex() for x, y in batches]
        assert step.store is not None and not step.store.problem
        result["loaded"][name], result["compiled"][name] = step.store.loaded, step.store.compiled
        weights = [p.asnumpy().tobytes().hex() for p in step.get_parameters()]
        result["bits"][name] = losses + weights
    return result


class Opaque:
    """What it holds, nobody knows."""


class Unknowable(nn.SequentialCell):
    def __init__(self, *cells: nn.Cell) -> None:
        super().__init__(*cells)
        self.opaque = Opaque()


def _train_unknowable(folder: str) -> dict[str, Any]:
    """Steps of THOR on a net whose backward passes have no key; its other graphs have one."""
    ms.set_context(mode=ms.GRAPH_MODE)
    net = randomise(Unknowable(nn.Dense(5, 5)), 3)
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    optimizer = create_optimizer("thor", net, 0.1, factor_interval=2, inverse_interval=2)
    step = TrainStep(net, loss, optimizer, compile_cache=folder)
    for x, y in steps.problem(2)[1]:
        step(Tensor(x), Tensor(y))
    assert step.store is not None
    weights = [p.asnumpy().tobytes().hex() for p in step.get_parameters()]
    return {"loaded": step.store.loaded, "compiled": step.store.compiled, "bits": weights}


def _trained_elsewhere(folder: Path, how: str = "_train") -> dict[str, Any]:
    code = (
        "import json, compiling, test_compile_cache as tested\n"
        "compiling.make_compiling_cheaper()\n"
        f"print('result', json.dumps(tested.{how}({str(folder)!r})))"
    )
    paths = [str(TESTS.parent), str(TESTS), str(TESTS / "cache")]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("result ")]
    assert lines, done.stderr[-3000:]
    return dict(json.loads(lines[-1][len("result ") :]))


def test_kept_graphs_give_the_same_bits_and_damaged_ones_are_compiled_anew(tmp_path: Path) -> None:
    cold = _trained_elsewhere(tmp_path)
    kept = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_size)
    total = sum(cold["compiled"])
    assert cold["loaded"] == [0, 0] and total == len(kept) and total >= 4
    assert len(cold["told"]) == total and "compiling the update ..." in cold["told"]
    content = [path.read_bytes() for path in kept]
    kept[0].write_bytes(content[0][:-5])
    flipped = bytearray(content[1])
    flipped[len(flipped) // 2] ^= 1
    kept[1].write_bytes(flipped)
    warm = _trained_elsewhere(tmp_path)
    assert sum(warm["compiled"]) == 2 == len(warm["told"]) and sum(warm["loaded"]) == total - 2
    assert warm["bits"] == cold["bits"]
    # Mended under the same keys.
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_kept_graphs_of_every_method_give_the_same_bits(tmp_path: Path) -> None:
    cold = _trained_elsewhere(tmp_path, "_train_all")
    warm = _trained_elsewhere(tmp_path, "_train_all")
    assert set(cold["bits"]) == set(METHODS)
    for name in METHODS:
        assert cold["compiled"][name] == warm["loaded"][name] > 0 == warm["compiled"][name], name
        assert cold["bits"][name] == warm["bits"][name], name


def test_graphs_behind_one_without_a_key_are_kept(tmp_path: Path) -> None:
    """Capture and plain backward pass are compiled again, refresh and update are loaded."""
    cold, warm = (_trained_elsewhere(tmp_path, "_train_unknowable") for _ in range(2))
    assert (cold["loaded"], cold["compiled"]) == (0, 4)
    assert (warm["loaded"], warm["compiled"]) == (2, 2)
    assert cold["bits"] == warm["bits"]


def test_what_is_not_kept_is_told_and_counted_too() -> None:
    net, batches = steps.problem(3)
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    cache = compile_cache.CompileCache(None, off="not wanted")
    told: list[str] = []
    cache.tell = told.append
    step = TrainStep(net, loss, nn.Momentum(net.trainable_params(), 0.1, 0.9), 1, cache)
    steps.train(step, batches)
    assert told == ["compiling the step ..."]
    assert (cache.compiled, cache.loaded) == (1, 0)
    assert cache.news().startswith("graphs: 1 compiled, ") and not cache.news()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_script_at_a_terminal_sees_what_is_compiled(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    net = nn.SequentialCell(nn.Dense(5, 5))
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    step = TrainStep(net, loss, nn.Momentum(net.trainable_params(), 0.1, 0.9))
    steps.train(step, steps.problem(2)[1])
    assert ("compiling the step ...\n" in stream.getvalue()) == terminal
    assert stream.getvalue().count("compiling") == int(terminal)


# ---- the folder


def test_an_entry_is_whole_or_not_there(tmp_path: Path) -> None:
    kept = KeptGraphs(tmp_path / "graphs", 10**6)
    assert (tmp_path / "graphs").stat().st_mode & 0o777 == 0o700
    key, graph, note = "a" * 64, bytes(range(256)), [["seed", 1]]
    kept.keep(key, graph, note)
    assert kept.read(key) == (graph, note)
    (path,) = kept.folder.iterdir()
    whole = path.read_bytes()
    flipped = [whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :] for i in range(0, len(whole), 7)]
    for damaged in [whole[:n] for n in range(0, len(whole), 5)] + flipped + [whole + b"\0"]:
        path.write_bytes(damaged)
        assert kept.read(key) is None
        assert not path.exists()
    other = kept.folder / f"{'b' * 64}{path.suffix}"
    other.write_bytes(whole)  # another key's
    assert kept.read("b" * 64) is None


def test_the_entries_not_used_for_longest_make_room(tmp_path: Path) -> None:
    kept = KeptGraphs(tmp_path, 5000)
    for age, name in enumerate("cba"):
        kept.keep(name * 64, b"x" * 1000, None)
        (path,) = (p for p in tmp_path.iterdir() if p.name.startswith(name))
        os.utime(path, (1000 - age, 1000 - age))
    assert kept.read("a" * 64) is not None  # the oldest, but used now
    kept.keep("d" * 64, b"x" * 2500, None)
    assert {path.name[0] for path in tmp_path.iterdir()} == {"c", "a", "d"}
    kept.keep("e" * 64, b"x" * 6000, None)  # alone above the limit: not kept, nobody goes
    assert {path.name[0] for path in tmp_path.iterdir()} == {"c", "a", "d"}


def test_a_folder_that_is_not_private_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    file = tmp_path / "file"
    file.write_text("mine")
    for bad in (shared, file, file / "below", str(tmp_path / ("x" * 300)), "a\0b", "", 3):
        with pytest.raises(UserError) as caught:
            open_cache(bad)  # type: ignore[arg-type]
        assert len(str(caught.value)) <= 300
    assert file.read_text() == "mine"
    monkeypatch.setenv(compile_cache.VARIABLE, str(file))
    cache = open_cache(True)  # nobody asked for that folder: no error, but said once
    assert cache is not None and str(file) in cache.news() and not cache.news()
    assert open_cache(None) is None and open_cache(False) is None


def test_the_recipe_takes_a_switch_or_a_folder() -> None:
    metadata = TrainConfig.__dataclass_fields__["compile_cache"].metadata
    for good in (True, False, "some/folder"):
        assert checked("train.compile_cache", good, metadata, "r.yaml") == good
    for bad in (3, None, "", [True], 1.0):
        with pytest.raises(UserError, match="true, false or text"):
            checked("train.compile_cache", bad, metadata, "r.yaml")


def test_a_graph_has_one_key_whatever_was_compiled_before_it() -> None:
    """A run that is resumed compiles its graphs in another order than the run before it."""
    ms.set_context(mode=ms.GRAPH_MODE)
    net, batches = steps.problem(2)
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    step = TrainStep(net, loss, steps.thor(net))
    batch = tuple(map(Tensor, batches[0]))

    def keys() -> list[str]:
        return [key_of(graph, batch) for graph in step._graphs]

    before = keys()
    step(*batch)
    captured = keys()
    step.plain_step(*batch)
    graphs = (step.capture, step.renew, step.apply_update, step.plain)
    assert all(graph.compile_cache for graph in graphs)
    assert before == captured == keys()
