"""One row: a net with a method, in a process of its own, stored as ``<net>-<method>.json``."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from benchmarks import compile_time
from benchmarks.harness.provenance import provenance
from benchmarks.matrix.nets import CLASSES, NETS, RATE, STEPS, create, options_of
from mindspore_thor.errors import shortened
from mindspore_thor.files import write_file
from mindspore_thor.optim import create_optimizer
from mindspore_thor.step.train_step import TrainStep

Row = dict[str, Any]

_WAITS = 5
"""A row may take so many times its limit of CPU seconds in wall seconds: it may have hung."""


def path_of(folder: Path, net: str, method: str) -> Path:
    """Where a row is stored.

    Args:
        folder: Of all rows.
        net: A key of :data:`NETS`.
        method: A key of :data:`METHODS`.
    """
    return folder / f"{net}-{method}.json"


def store(path: Path, row: Row) -> None:
    """Write a row.

    Args:
        path: See :func:`path_of`.
        row: Plain values.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = (json.dumps(row, indent=1) + "\n").encode()
    write_file(path, [content], len(content))


def _head(net: str, method: str) -> Row:
    known = NETS[net]
    head = {"net": net, "method": method, "size": known.size, "batch": known.batch}
    return {**head, "rate": RATE, "options": options_of(net, method), **provenance()}


def _layers(optimizer: nn.Optimizer, method: str) -> Row:
    """What the method moves, in layers by type and in weights."""
    report = optimizer.layer_report()
    types: dict[str, list[int]] = {}
    reasons: dict[str, int] = {}
    for row in report:
        counts = types.setdefault(row.type, [0, 0])
        counts[0] += row.covered
        counts[1] += 1
        if not row.covered:
            reason = f"{row.type}: {row.reason}"
            reasons[reason] = reasons.get(reason, 0) + 1
    sizes = {p.name: int(np.prod(p.shape)) for p in optimizer.weights}
    moved = sum(size for name, size in sizes.items() if report.rules.get(name) == report.method)
    return {
        "types": types,
        "reasons": reasons,
        "weights": sum(sizes.values()),
        "weights_moved": moved,
    }


def _checkpoint_loads(trained: nn.Cell, name: str) -> bool:
    """Whether the trained net's checkpoint is a plain net's: the same names, shapes and values."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/net.ckpt"
        ms.save_checkpoint(trained, path)
        stored = ms.load_checkpoint(path)
    plain = create(name)
    missing, unknown = ms.load_param_into_net(plain, stored, strict_load=True)
    values = {p.name: p for p in trained.get_parameters()}
    names = {p.name for p in plain.get_parameters()}
    return (
        not missing
        and not unknown
        and names == set(stored)
        and all(
            np.array_equal(p.asnumpy(), values[p.name].asnumpy()) for p in plain.get_parameters()
        )
    )


def measure(name: str, method: str) -> Row:
    """Train a few steps on one batch of noise, in this process.

    Args:
        name: A key of :data:`NETS`.
        method: A key of :data:`METHODS`.

    Returns:
        What the method moves, the loss of every step, wall and CPU seconds until each was done,
        every graph's seconds of compilation and first run, and whether the checkpoint loads.
    """
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(1)
    known = NETS[name]
    start = time.perf_counter(), time.process_time()
    net = create(name)
    optimizer = create_optimizer(method, net, RATE, **options_of(name, method))
    step = TrainStep(net, nn.CrossEntropyLoss(), optimizer)
    graphs: dict[str, tuple[float, float]] = {}
    for attribute, title in compile_time.GRAPHS.items():
        if hasattr(step, attribute):
            compile_time.watch(getattr(step, attribute), title, graphs)
    generator = np.random.default_rng(1)
    shape = (known.batch, 3, known.size, known.size)
    images = Tensor(generator.standard_normal(shape).astype(np.float32))
    labels = Tensor((np.arange(known.batch) % CLASSES).astype(np.int32))
    losses, done = [], []
    for _ in range(STEPS):
        losses.append(float(step(images, labels).asnumpy()))
        done.append([time.perf_counter() - start[0], time.process_time() - start[1]])
    return {
        **_layers(optimizer, method),
        "losses": losses,
        "skipped": int(step.skipped.asnumpy()),
        "seconds": done,
        "graphs": graphs,
        "checkpoint": _checkpoint_loads(net, name),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def run_here(folder: Path, net: str, method: str, limit: int | None = None) -> None:
    """Measure a row and store it, also where it fails: then with the reason.

    Args:
        folder: Of all rows.
        net: A key of :data:`NETS`.
        method: A key of :data:`METHODS`.
        limit: CPU seconds after which the system ends this process by SIGXCPU; None for no limit.
    """
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 30))
    row = _head(net, method)
    try:
        row |= measure(net, method)
    except Exception as error:
        text = str(error).split("\n--", 1)[0]  # what MindSpore's C++ adds below
        row["failed"] = shortened(f"{type(error).__name__}: {text}")
    store(path_of(folder, net, method), row)


def run_row(folder: Path, net: str, method: str, program: Path, limit: int) -> str:
    """Run a row in a process of its own, unless it is stored.

    Args:
        folder: Of all rows.
        net: A key of :data:`NETS`.
        method: A key of :data:`METHODS`.
        program: What is started, with ``--row NET METHOD``.
        limit: CPU seconds after which the process is ended, which is stored as well. Not wall
            seconds: those depend on what else the machine does.

    Returns:
        What became of it, one line.
    """
    path = path_of(folder, net, method)
    if path.is_file():
        return "is stored"
    command = [sys.executable, str(program), "--row", net, method, "--results_dir", str(folder)]
    command += ["--limit", str(limit)]
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            process.wait(_WAITS * limit)
        except subprocess.TimeoutExpired:
            store(path, {**_head(net, method), "failed": f"hung for {_WAITS * limit} s"})
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        code = process.returncode
        if code == -signal.SIGXCPU and not path.is_file():
            store(path, {**_head(net, method), "limit": limit})
        if not path.is_file():
            reason = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            store(path, {**_head(net, method), "failed": reason})
            log.seek(0)
            sys.stderr.write(log.read()[-2000:].decode(errors="replace"))
    row = json.loads(path.read_text(encoding="utf-8"))
    took = f"{time.perf_counter() - started:.0f} s"
    if "limit" in row:
        return f"not done in {limit} CPU seconds"
    return f"{took}, failed: {row['failed']}" if "failed" in row else f"{took}, {row['losses']}"
