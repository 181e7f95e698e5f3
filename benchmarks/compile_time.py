"""Seconds until the first steps of every method are done: mostly compilation.

    python benchmarks/compile_time.py [--models resnet20,resnet50] [--methods thor,kfac_eigen]
    python benchmarks/compile_time.py --models mobilenet_v3_small --rounds 3 --json FILE
    python benchmarks/compile_time.py --models resnet50 --methods thor --warm

Every model and method has a process of its own, for what a process has compiled it keeps; one of
SGD runs right before. The clock starts when MindSpore is imported, before the network is built, so
that building it counts. Step 1 collects statistics, inverts and updates, step 2 is a plain one
(Eva has none; LNGD's step 1 is one, behind a pass of its own). Options are the methods' defaults
apart from the intervals. CPU seconds are those of all threads of the process: other programs
disturb them less. A graph's seconds are those of its first call, compilation + run. With ``--warm``
each process keeps its graphs in a folder of its own, and another one starts from there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import benchmarks.needs  # noqa: F401  (first, before what it asks for)

# isort: split
import mindspore as ms
from mindspore import nn

from benchmarks import step_time
from benchmarks.harness.process import ProcessEnded, in_own_process
from benchmarks.harness.provenance import provenance
from mindspore_thor.command_line import (
    Parser,
    one_line_errors,
    path_argument,
    report_error,
    whole_number,
)
from mindspore_thor.errors import UserError, quoted
from mindspore_thor.program import run_program
from mindspore_thor.step.train_step import TrainStep
from models import create_model

SGD = "sgd"
METHODS = (
    SGD,
    "thor",
    "kfac_eigen",
    "ekfac",
    "tkfac",
    "eva",
    "shampoo",
    "soap",
    "muon",
    "fngd",
    "lngd",
)
GRAPHS = {"capture": "capture", "measure": "capture", "renew": "refresh", "again": "retry"}
GRAPHS.update(apply_update="update", plain="plain", whole="plain")
"""A graph's attribute of ``TrainStep`` -> what it is called here."""


class Model(NamedTuple):
    """A network's name, its batch, what is trained on it by default, and how many steps."""

    title: str
    image_size: int
    batch_size: int
    methods: Sequence[str] = METHODS
    steps: int = 2


NEEDS_MINDCV = "mobilenet_v3_small"
MODELS = {
    "resnet20": Model("ResNet-20", 32, 128),
    "resnet50": Model("ResNet-50", 64, 8),
    NEEDS_MINDCV: Model("MobileNetV3, small (mindcv)", 64, 8, (SGD, "thor"), 5),
}


def create(model: str) -> nn.Cell:
    """The network of one of :data:`MODELS`."""
    if model == NEEDS_MINDCV:
        return importlib.import_module("mindcv").create_model(f"{model}_100", num_classes=10)
    return create_model(model, **step_time.MODELS[model].options)


class Measured(NamedTuple):
    """One process.

    Attributes:
        steps: wall and CPU seconds, from building the network until each step was done.
        graphs: name -> seconds of compilation and of the run, in the graph's first call.
    """

    steps: list[tuple[float, float]]
    graphs: dict[str, tuple[float, float]]


class Timed:
    """A method of a graph that notes how long its first call takes.

    Args:
        method: the cell's own.
        note: called with the result and the seconds.
    """

    digested_as_nothing = True  # by the compile cache: it changes no graph

    def __init__(self, method: Callable[..., Any], note: Callable[[Any, float], object]) -> None:
        self._method, self._note, self._noted = method, note, False

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        """In place of the method."""
        start = time.perf_counter()
        result = self._method(*inputs, **keywords)
        if not self._noted:
            self._noted = True
            step_time.wait(result)
            self._note(result, time.perf_counter() - start)
        return result


def watch(cell: nn.Cell, name: str, found: dict[str, tuple[float, float]]) -> None:
    """Let a graph note the seconds of compilation and of the run, in its first call."""
    compiled: list[float] = []
    cell.compile = Timed(cell.compile, lambda _, took: compiled.append(took))
    cell.compile_and_run = Timed(
        cell.compile_and_run,
        lambda _, took: found.setdefault(name, (compiled[0], took - compiled[0])),
    )


def measure(model: str, method: str, **step_options: Any) -> Measured:
    """Train the first steps in this process, which should not have compiled anything yet.

    Args:
        model: a key of :data:`MODELS`.
        method: a key of the step-time benchmark's methods.
        **step_options: keywords of ``TrainStep``.
    """
    ms.set_context(mode=ms.GRAPH_MODE)
    setting = MODELS[model]
    start = time.perf_counter(), time.process_time()
    # An epoch of one step: FNGD's second step is then one of its later epochs.
    net = create(model)
    optimizer = step_time.optimizer_of(method, net, steps_per_epoch=1)
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    step = TrainStep(net, loss, optimizer, **step_options)
    graphs: dict[str, tuple[float, float]] = {}
    for attribute, name in GRAPHS.items():
        if hasattr(step, attribute):
            watch(getattr(step, attribute), name, graphs)
    batch = step_time.random_batch(setting.batch_size, setting.image_size)
    steps = []
    for _ in range(setting.steps):
        step_time.wait(step(*batch))
        steps.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return Measured(steps, graphs)


Pair = tuple[Measured, ...]  # SGD, the method that came next, and that once more from its cache


def measure_kept(model: str, method: str, cache: str | None) -> Measured:
    """As :func:`measure`, with the folder of the kept graphs as a third argument."""
    return measure(model, method, **({} if cache is None else {"compile_cache": cache}))


def measure_pair(model: str, method: str, warm: bool = False) -> list[Pair]:
    """All in processes of their own; nothing where one of these failed, which is said."""
    names = (SGD,) if method == SGD else (SGD, method)
    try:
        with tempfile.TemporaryDirectory() as folder:
            caches = [f"{folder}/{name}" if warm else None for name in names]
            starts = list(zip(names, caches))
            if warm:
                starts.append(starts[-1])
            done = [
                in_own_process(f"{model}, {n}", "--methods", measure_kept, model, n, cache)
                for n, cache in starts
            ]
    except (ProcessEnded, RuntimeError) as error:  # RuntimeError: MindSpore had no memory
        report_error(error)
        return []
    return [(done[0], *done[len(names) - 1 :])]


def _medians(rows: Iterable[Sequence[float]]) -> list[float]:
    return [statistics.median(column) for column in zip(*rows)]


def row(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Medians over the rounds of one model and method; empty where no process came to its end."""
    if not pairs:
        return {}
    bases, owns, *warm = zip(*pairs)
    steps, sgd = (
        [_medians(each.steps[k] for each in side) for k in range(len(owns[0].steps))]
        for side in (owns, bases)
    )
    return {
        **({"warm": _medians(each.steps[-1] for each in warm[0])} if warm else {}),
        "steps": steps,
        "sgd": sgd,
        "ratio": steps[-1][0] / sgd[-1][0],
        "cpu_ratio": steps[-1][1] / sgd[-1][1],
        "graphs": {
            name: _medians(each.graphs[name] for each in owns if name in each.graphs)
            for name in owns[0].graphs
        },
    }


def table(rows: dict[str, dict[str, Any]], steps: int) -> str:
    """The rows of one model; the ratios are about the last of its steps."""
    shown, names = sorted({1, 2, steps}), ("capture", "refresh", "update", "plain")
    head = ["method", *(f"step {k} done, s (CPU s)" for k in shown), "/ SGD", "CPU / SGD", *names]
    warm = any("warm" in found for found in rows.values())
    head += [f"warm, step {steps} done, s"] if warm else []
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for method, found in rows.items():
        cells = ["ended"] * (len(head) - 1)
        if found:
            done = [found["steps"][k - 1] for k in shown]
            cells = [f"{wall:.1f} ({cpu:.1f})" for wall, cpu in done]
            cells += [f"{found[key]:.2f}" for key in ("ratio", "cpu_ratio")]
            parts = [found["graphs"].get(name) for name in names]
            cells += ["-" if pair is None else f"{pair[0]:.1f} + {pair[1]:.1f}" for pair in parts]
            cells += [f"{found['warm'][0]:.1f}"] if warm else []
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _wanted(text: str | None, kind: str, known: Iterable[str]) -> list[str]:
    names = [] if text is None else list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in known:
            raise UserError(f"unknown {kind} {quoted(name)}: use some of {','.join(known)}")
    return names


def _models(text: str | None) -> list[str]:
    """Those that are asked for; by default all that can be had."""
    names = _wanted(text, "model", MODELS) or list(MODELS)
    if NEEDS_MINDCV in names and importlib.util.find_spec("mindcv") is None:
        line = f"{NEEDS_MINDCV} is mindcv's, which is not installed here: 'pip install mindcv'"
        if text is not None:
            raise UserError(f"{line}, or leave it out of --models")
        print(f"left out: {line}", file=sys.stderr, flush=True)
        names.remove(NEEDS_MINDCV)
    return names


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Measure and print a table per model; returns the exit code, 1 where a process was ended."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", help=f"default: {','.join(MODELS)}")
    parser.add_argument("--methods", help=f"default: {','.join(METHODS)}, or {SGD},thor (mindcv)")
    parser.add_argument("--rounds", type=whole_number, default=1, help="the figures are medians")
    parser.add_argument("--json", type=path_argument, help="also write the figures here")
    parser.add_argument("--warm", action="store_true", help="also start again from kept graphs")
    args = parser.parse_args(argv)
    asked = _wanted(args.methods, "method", step_time.METHODS)
    pairs: dict[tuple[str, str], list[Pair]] = {
        (name, method): []
        for name in _models(args.models)
        for method in asked or MODELS[name].methods
    }
    content: dict[str, Any] = {**provenance(), "rounds": args.rounds, "models": {}}
    for number in range(args.rounds):
        for (name, method), found in pairs.items():
            found += measure_pair(name, method, args.warm)
            content["models"].setdefault(name, {})[method] = row(found)
            print(f"round {number + 1}: {name}, {method}", file=sys.stderr, flush=True)
            if args.json:  # now, because the next ones may take an hour
                args.json.write_text(json.dumps(content, indent=1), encoding="utf-8")
    for name, rows in content["models"].items():
        title, size, batch, _, steps = MODELS[name]
        print(f"\n{title}, {size}x{size}, batch {batch}, medians of {args.rounds} rounds\n")
        print(table(rows, steps), flush=True)
    return int(not all(map(len, pairs.values())))


if __name__ == "__main__":
    run_program(main)
