"""Step time of every method as a ratio to SGD, interleaved in one process.

    python benchmarks/step_time.py [--methods sgd,thor,kfac_eigen] [--rounds 15] [--json FILE]
    python benchmarks/step_time.py --model resnet50 --image_size 64 --batch_size 8
    python benchmarks/step_time.py --methods thor --whole 5 --defaults [--no_phases]

One round runs one plain step of SGD and one step of every kind (plain, factor, inverse) of every
method, so that a drift of the machine's speed hits all alike. The amortised time of a method is
plain + (factor - plain) / factor_interval + inverse / inverse_interval, from medians. EKFAC's
factor step is cheaper where a refresh follows ("brief"): what depends on the old basis is not
collected. A ratio divides by SGD's median of the same run.

``--whole N`` measures what a user sees: N times as many calls of the ``TrainStep`` as a complete
interval has (20; LNGD's is 100), each beside one of SGD's, every refresh really inverting. Seconds
are means over such calls, medians over the N. CPU seconds are those of all threads: other programs
disturb them less. FNGD's calls are those of its later epochs.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, NamedTuple

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import benchmarks.needs  # noqa: F401  (first, before what it asks for)

# isort: split
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from benchmarks.harness.provenance import provenance
from mindspore_thor.command_line import Parser, one_line_errors, whole_number
from mindspore_thor.curvature.group import FACTORS, SPECTRUM
from mindspore_thor.errors import UserError
from mindspore_thor.optim import create_optimizer, optimizer_options
from mindspore_thor.program import run_program
from mindspore_thor.step.train_step import TrainStep
from models import create_model

# Small enough that no method's weights diverge, even where its inverses are left out: an update
# that is skipped as non-finite costs nothing.
LEARNING_RATE = 1e-6
INTERVALS = {"factor_interval": 10, "inverse_interval": 20}
# THOR does not average its factors: those of a step without a refresh would never be used.
THORS_INTERVALS = {"factor_interval": 20, "inverse_interval": 20}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("sgd", {}),
    "adamw": ("adamw", {}),
    "nadamw": ("nadamw", {}),
    "muon": ("muon", {}),
    "soap": ("soap", {"inverse_interval": 10}),
    "thor": ("thor", THORS_INTERVALS),
    "thor_stop": ("thor", {**THORS_INTERVALS, "trace_thresholds": (0.01, 0.001)}),
    "thor_nt": ("thor", {**THORS_INTERVALS, "trace_thresholds": (0.0, 0.0)}),
    "kfac_eigen": ("kfac", {**INTERVALS, "method": "eigen"}),
    "kfac_inverse": ("kfac", {**INTERVALS, "method": "inverse"}),
    "tkfac": ("tkfac", INTERVALS),
    "ekfac": ("ekfac", INTERVALS),
    "eva": ("eva", {}),
    "shampoo": ("shampoo", INTERVALS),
    # plain: a step of the later epochs; factor: one of the first epoch.
    "fngd": ("fngd", {"steps_per_epoch": 20}),
    # factor: the pass before the step and the step.
    "lngd": ("lngd", {"factor_interval": 100, "inverse_interval": 100}),
    "lngd_quarter": (
        "lngd",
        {"factor_interval": 100, "inverse_interval": 100, "rate_samples": 32},
    ),
    "lngd_batch": ("lngd", {"factor_interval": 100, "inverse_interval": 100, "fisher": "batch"}),
}


LEAST_CALLS = 20
"""Calls of a ``TrainStep`` that are measured together, at the least."""

Row = dict[str, float]
"""What was measured of a method: the kind of step, or what else -> seconds, mostly."""


class Setting(NamedTuple):
    """A benchmarked model: what it is called, its options, and THOR's split dimension for it."""

    title: str
    options: dict[str, Any]
    split_dim: int


MODELS = {
    "resnet20": Setting("ResNet-20", {"num_classes": 10, "in_channels": 3}, 72),
    "resnet50": Setting("ResNet-50", {}, 128),
}


def wait(result: Any) -> None:
    """Block until a graph's outputs are there."""
    if isinstance(result, (tuple, list)):
        for item in result:
            wait(item)
    elif isinstance(result, Tensor):
        result.asnumpy()


def amortised_seconds(medians: dict[str, float], factors: float, inverses: float) -> float:
    """Mean seconds of a step of a run.

    Args:
        medians: Seconds of a plain step, of one that collects factors, of one that does so before a
            refresh where that differs ("brief"), and of the inverses alone.
        factors: Share of the steps that collect.
        inverses: Share of the steps that invert.
    """
    plain = medians["plain"]
    total = plain + inverses * medians.get("inverse", 0.0)
    if "factor" in medians:
        brief = min(factors, inverses) if "brief" in medians else 0.0
        total += (factors - brief) * (medians["factor"] - plain)
        total += brief * (medians.get("brief", plain) - plain)
    return total


@dataclass
class Runner:
    """One method on its own copy of the network, with the seconds of each kind of step."""

    name: str
    step: TrainStep
    factor_interval: int
    inverse_interval: int
    times: dict[str, list[float]] = field(default_factory=dict)

    def timed(self, kind: str, run: Callable[[], Any]) -> Any:
        """Run, wait, note the seconds."""
        start = time.perf_counter()
        result = run()
        wait(result)
        self.times.setdefault(kind, []).append(time.perf_counter() - start)
        return result

    def round(self, batch: tuple[Tensor, ...], inverses: bool = True) -> None:
        """One step of every kind that this method has; on demand without its inverses."""
        step, optimizer = self.step, self.step.optimizer
        if not step.second_order:
            self.timed("plain", lambda: step.whole.compile_and_run(*batch))
            return
        optimizer.expect_batch(batch[0].shape[0])
        self.timed("plain", lambda: step.plain_step(*batch))
        everything = FACTORS + SPECTRUM if optimizer.remeasures else FACTORS

        def factor() -> Any:
            if optimizer.measures_first:
                step.measure.compile_and_run(*batch)
                return step.plain_step(*batch)
            _, gradients, finite = step.capture.compile_and_run(*batch)
            return step.apply_update.compile_and_run(finite, *gradients)

        if optimizer.collects:
            if optimizer.remeasures:
                ops.assign(optimizer.due, Tensor(FACTORS, ms.int32))
                self.timed("brief", factor)
            ops.assign(optimizer.due, Tensor(everything, ms.int32))
            self.timed("factor", factor)
        if self.name == "fngd" or not inverses:
            return
        self.forget()
        if not optimizer.derives:
            return

        def inverse() -> Any:
            done = step.renew.compile_and_run()
            return step.capture.compile_and_run(*batch) if optimizer.remeasures else done

        self.timed("inverse", inverse)

    def forget(self) -> None:
        """Let the next refresh really invert: forget the trace rule's baselines and its stops."""
        if not self.step.second_order:
            return
        outcomes = self.step.optimizer.refresher.outcomes
        ops.assign(outcomes.active, ops.ones_like(outcomes.active))
        if outcomes.ruled:
            ops.assign(outcomes.trace_baseline, ops.full_like(outcomes.trace_baseline, -1.0))

    def calls(self) -> int:
        """Calls of a few complete intervals: in any such row everything happens equally often."""
        interval = math.lcm(self.factor_interval, self.inverse_interval)
        return interval * -(-LEAST_CALLS // interval)

    def begin(self, batch: tuple[Tensor, ...]) -> None:
        """Compile what whole steps need; FNGD's first epoch, which is another, goes by."""
        first = self.step.optimizer.first_epoch if self.name == "fngd" else 0
        for call in range(max(2, first)):
            if call < 2 or int(self.step.optimizer.global_step.asnumpy()[0]) < first:
                wait(self.step(*batch))

    def summary(self, skip: int) -> dict[str, float]:
        """Medians in seconds, and the amortised step."""
        medians = {kind: statistics.median(times[skip:]) for kind, times in self.times.items()}
        if self.name == "fngd":  # its factor steps are the first epoch only
            return {**medians, "amortised": medians["plain"]}
        if self.step.second_order and self.step.optimizer.derives and "inverse" not in medians:
            return medians
        shares = 1.0 / self.factor_interval, 1.0 / self.inverse_interval
        return {**medians, "amortised": amortised_seconds(medians, *shares)}


def whole_steps(pair: Sequence[Runner], batch: tuple[Tensor, ...], rounds: int) -> Row:
    """Measure complete intervals of whole steps, call by call in turn.

    Args:
        pair: SGD and the method.
        batch: arguments of every call.
        rounds: how many times.

    Returns:
        Seconds of a step on average ("whole"), CPU seconds ("whole_cpu"), SGD's beside them
        ("sgd", "sgd_cpu"), and how many calls a round had ("calls"); medians over the rounds.
    """
    for runner in pair:
        runner.begin(batch)
    calls = pair[1].calls()
    rows = []
    for _ in range(rounds):
        pair[1].forget()
        spent = [[0.0, 0.0] for _ in pair]
        for _ in range(calls):
            for runner, sums in zip(pair, spent):
                start = time.perf_counter(), time.process_time()
                wait(runner.step(*batch))
                sums[0] += time.perf_counter() - start[0]
                sums[1] += time.process_time() - start[1]
        rows.append([seconds / calls for sums in spent for seconds in sums])
    kinds = ("sgd", "sgd_cpu", "whole", "whole_cpu")
    return {**{k: statistics.median(v) for k, v in zip(kinds, zip(*rows))}, "calls": calls}


def whole_table(rows: dict[str, Row]) -> str:
    """The table of what :func:`whole_steps` found."""
    lines = ["| method | calls | SGD, ms | method, ms | whole step / SGD | CPU seconds / SGD |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, row in rows.items():
        cells = [f"{row['calls']:.0f}", f"{1e3 * row['sgd']:.0f}", f"{1e3 * row['whole']:.0f}"]
        cells += [f"{row['whole'] / row['sgd']:.2f}", f"{row['whole_cpu'] / row['sgd_cpu']:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def phase_table(rows: dict[str, Row]) -> str:
    """The table of the kinds of step, as ratios to SGD's."""
    base = rows["sgd"]["plain"]
    lines = ["| method | plain | factor | inverse alone | amortised / SGD |\n|---|---|---|---|---|"]
    for name, row in rows.items():
        kinds = ("plain", "factor", "inverse", "amortised")
        cells = [f"{row[kind] / base:.2f}" if kind in row else "-" for kind in kinds]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def make_optimizer(
    name: str, model: str, defaults: bool = False, **run: Any
) -> tuple[nn.Cell, nn.Optimizer]:
    """A benchmarked model, and a method of :data:`METHODS` on it.

    Args:
        name: a key of :data:`METHODS`.
        model: a key of :data:`MODELS`.
        defaults: leave to the method what :data:`METHODS` does not name.
        **run: further keywords, for the methods that have them.

    Raises:
        UserError: for an unknown method or model.
    """
    for kind, given, known in (("method", name, METHODS), ("model", model, MODELS)):
        if given not in known:
            raise UserError(f"unknown {kind} {given!r}: use some of {','.join(known)}")
    setting = MODELS[model]
    net = create_model(model, **setting.options)
    if not defaults:
        run = {"split_dim": setting.split_dim, **run}
    return net, optimizer_of(name, net, **run)


def optimizer_of(name: str, net: nn.Cell, **run: Any) -> nn.Optimizer:
    """A method of :data:`METHODS` on any network; ``run`` as for :func:`make_optimizer`."""
    method, options = METHODS[name]
    valid = optimizer_options(method)
    options = {**options, **{key: value for key, value in run.items() if key in valid}}
    return create_optimizer(method, net, LEARNING_RATE, **options)


def random_batch(batch_size: int, image_size: int) -> tuple[Tensor, Tensor]:
    """Fixed random pixels and labels of ten classes."""
    rng = np.random.default_rng(0)
    shape = (batch_size, 3, image_size, image_size)
    images = Tensor(rng.standard_normal(shape).astype(np.float32))
    return images, Tensor(rng.integers(0, 10, batch_size).astype(np.int32))


def build(
    name: str, model: str, batch_size: int, image_size: int, defaults: bool = False
) -> tuple[Runner, tuple[Tensor, ...]]:
    """A method's runner and the common batch."""
    net, optimizer = make_optimizer(name, model, defaults)
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    intervals = [METHODS[name][1].get(key, 1) for key in INTERVALS]
    return Runner(name, TrainStep(net, loss, optimizer), *intervals), random_batch(
        batch_size, image_size
    )


def measure_phases(
    built: Sequence[tuple[Runner, tuple[Tensor, ...]]], rounds: int, skip: int, inverses: bool
) -> dict[str, Row]:
    """Medians of every kind of step of every method, all of them in turn."""
    for index in range(rounds + skip):
        for runner, batch in built:
            runner.round(batch, inverses)
        print(f"round {index + 1}/{rounds + skip}", file=sys.stderr, flush=True)
    return {runner.name: runner.summary(skip) for runner, _ in built}


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Measure and print the tables; returns the exit code."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--rounds", type=whole_number, default=15)
    parser.add_argument("--model", default="resnet20", choices=list(MODELS))
    parser.add_argument("--image_size", type=whole_number, default=32)
    parser.add_argument("--batch_size", type=whole_number, default=128)
    parser.add_argument("--warm_up", type=whole_number, default=2, help="rounds not counted")
    parser.add_argument(
        "--no_inverses", action="store_true", help="where whole factors would take minutes"
    )
    parser.add_argument(
        "--defaults", action="store_true", help="no split_dim of the model's own: the methods'"
    )
    parser.add_argument(
        "--whole", type=whole_number, metavar="ROUNDS", help="also whole steps over their intervals"
    )
    parser.add_argument("--no_phases", action="store_true", help="with --whole: nothing else")
    parser.add_argument("--json", type=Path, help="also write the medians here")
    args = parser.parse_args(argv)
    if args.no_phases and not args.whole:
        raise UserError("--no_phases leaves nothing to measure: give --whole ROUNDS as well")
    ms.set_context(mode=ms.GRAPH_MODE)
    names = list(dict.fromkeys(["sgd", *args.methods.split(",")]))
    size = args.batch_size, args.image_size
    built = [build(name, args.model, *size, args.defaults) for name in names]
    phases, whole = {}, {}
    if not args.no_phases:
        phases = measure_phases(built, args.rounds, args.warm_up, not args.no_inverses)
    for runner, batch in built[1:] if args.whole else ():
        whole[runner.name] = whole_steps((built[0][0], runner), batch, args.whole)
        print(f"{runner.name}: whole steps done", file=sys.stderr, flush=True)
    title, _, split_dim = MODELS[args.model]
    options = "the methods' defaults" if args.defaults else f"THOR's split_dim {split_dim}"
    print(
        f"{title}, {args.image_size}x{args.image_size}, batch {args.batch_size}; intervals: "
        f"factors every {INTERVALS['factor_interval']} (THOR's: "
        f"{THORS_INTERVALS['factor_interval']}), inverses every "
        f"{INTERVALS['inverse_interval']} steps; Eva's means every step, LNGD's factors and "
        f"inverses every 100; other options: {options}"
    )
    if phases:
        base = 1e3 * phases["sgd"]["plain"]
        print(f"\nKinds of step, medians of {args.rounds} rounds; SGD {base:.0f} ms\n")
        print(phase_table(phases))
    if whole:
        print(f"\nWhole steps, medians of {args.whole} rounds of so many calls\n")
        print(whole_table(whole))
    for runner, _ in built:
        skipped = int(runner.step.skipped.asnumpy())
        if skipped:
            print(
                f"{runner.name}: {skipped} updates were skipped, because loss or gradient was not "
                "finite, and cost nothing: its times are too low"
            )
    if args.json:
        settings = {key: value for key, value in vars(args).items() if key != "json"}
        content = {**provenance(), "settings": settings, "phases": phases, "whole": whole}
        args.json.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    run_program(main)
