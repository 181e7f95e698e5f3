"""Step times of a study's methods on its own model and data, interleaved with the baseline's."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import models
from benchmarks.harness.process import in_own_process
from benchmarks.harness.provenance import provenance
from benchmarks.harness.spec import Study
from benchmarks.step_time import Runner, amortised_seconds
from mindspore_thor.errors import UserError
from mindspore_thor.methods.fngd import FNGD
from mindspore_thor.run.build import Session, build_session
from mindspore_thor.run.config import load_config, parse_overrides

SKIPPED_ROUNDS = 2
FILE_NAME = "step_time.json"

# Kind of step -> seconds.
Medians = dict[str, float]


def events(interval: Any, steps: int) -> int:
    """Count how often something that recurs after an interval happens in a run.

    Args:
        interval: A method's :class:`~mindspore_thor.optim.intervals.Interval`.
        steps: Updates of the run.

    Returns:
        How many of the steps 0 .. steps - 1 are such, beginning with step 0.
    """
    starts, changes = interval.starts.asnumpy(), interval.changes.asnumpy()
    step = count = 0
    while step < steps:
        count += 1
        step += int(changes[starts <= step].sum())
    return count


def _shares(session: Session, epochs: int) -> tuple[float, float]:
    """Share of the steps that collect factors, and that invert."""
    optimizer, steps = session.optimizer, epochs * session.train_data.steps_per_epoch
    if isinstance(optimizer, FNGD):
        return min(optimizer.first_epoch, steps) / steps, 0.0
    if not session.step.second_order:
        return 0.0, 0.0
    return (
        events(optimizer.factor_interval, steps) / steps,
        events(optimizer.inverse_interval, steps) / steps,
    )


def _session(study: Study, name: str, recipe: Path, data_path: str | None) -> Session:
    flags = ["--train.seed", str(study.seeds[0])]
    flags += [] if data_path is None else ["--data.path", json.dumps(data_path)]
    return build_session(load_config(recipe, models, parse_overrides(flags)), models)


def _paired(
    study: Study, name: str, results: Path, data_path: str | None, rounds: int
) -> tuple[dict[str, Medians], int]:
    """Medians of the baseline and of one method, and the steps of an epoch; in an own process.

    Each round runs one step of every kind of both, so that a drift of the machine's speed hits
    both alike.
    """
    runners: dict[str, tuple[Runner, Session, Any]] = {}
    steps_per_epoch = 0
    for member in dict.fromkeys([study.baseline, name]):
        recipe = results / f"{member}.yaml"
        with tempfile.TemporaryDirectory() as folder:
            if not recipe.is_file():
                recipe = Path(folder) / "recipe.yaml"
                recipe.write_text(study.recipe(member, 0, tuning=False), encoding="utf-8")
            session = _session(study, member, recipe, data_path)
        steps_per_epoch = session.train_data.steps_per_epoch
        batch = session.config.task.inputs(*next(session.train_data.epoch(0)))
        runner = Runner(session.config.optimizer.name, session.step, 1, 1)
        runners[member] = (runner, session, batch)
    for index in range(rounds + SKIPPED_ROUNDS):
        for runner, _, batch in runners.values():
            runner.round(batch)
        print(f"{name}: round {index + 1}/{rounds + SKIPPED_ROUNDS}", file=sys.stderr, flush=True)
    measured = {}
    for method in study.methods.values():
        if method.tuned_as not in runners:
            continue
        runner, session, _ = runners[method.tuned_as]
        medians = {
            kind: statistics.median(times[SKIPPED_ROUNDS:]) for kind, times in runner.times.items()
        }
        amortised = amortised_seconds(medians, *_shares(session, method.epochs))
        measured[method.name] = {**medians, "amortised": amortised}
    return measured, steps_per_epoch


def _in_process(study: Study, name: str, *rest: Any) -> tuple[dict[str, Medians], int]:
    return in_own_process(name, "--only", _paired, study, name, *rest)


def scaled(pairs: Sequence[dict[str, Medians]], baseline: str) -> dict[str, Medians]:
    """Bring the processes' step times to one scale: the baseline's median over all of them.

    Args:
        pairs: For every process, method -> kind of step -> seconds; the baseline is in each.
        baseline: Its name.

    Returns:
        Method -> kind of step -> seconds; ratios to it are those of the method's own process.
    """
    reference = statistics.median(pair[baseline]["plain"] for pair in pairs)
    return {
        name: {kind: value * reference / pair[baseline]["plain"] for kind, value in row.items()}
        for pair in pairs
        for name, row in pair.items()
    }


def measure(
    study: Study, names: list[str], results: Path, data_path: str | None, rounds: int
) -> None:
    """Measure and store the step times; the baseline is always among them.

    Every method is measured beside the baseline in a process of its own: with twelve nets in one
    process the same graph was found to take 15 % longer in one place than in another. Every round
    really inverts: what THOR's trace rule saves is not in the figures.

    Args:
        study: The study.
        names: The methods.
        results: Folder of the stored logs; its ``<method>.yaml`` is used where there is one, and
            otherwise the method's first candidate.
        data_path: Folder of the data set, or None for what the recipes say.
        rounds: Measured rounds; two more come before.

    Raises:
        UserError: If the study has no baseline to compare with, or a recipe is wrong.
    """
    if study.baseline not in study.methods:
        raise UserError(f"{study.name}: has no method {study.baseline!r} to compare with; add it")
    # The steps of a method's shorter form are its own.
    wanted = list(dict.fromkeys(study.methods[name].tuned_as for name in names))
    if len(wanted) > 1:
        wanted = [
            name for name in wanted if name != study.baseline
        ]  # it is in all the others' processes
    pairs, steps_per_epoch = [], 0
    for name in wanted:
        pair, steps_per_epoch = _in_process(study, name, results, data_path, rounds)
        pairs.append(pair)
        own, base = pair[name]["amortised"], pair[study.baseline]["amortised"]
        ratio = f"{own / base:.3f} x {study.baseline_title}"
        print(f"{name:<12} {1e3 * own:8.1f} ms, {ratio}", flush=True)
    content = {
        **provenance(),
        "rounds": rounds,
        "paired": True,
        "steps_per_epoch": steps_per_epoch,
        "methods": scaled(pairs, study.baseline),
    }
    results.mkdir(parents=True, exist_ok=True)
    (results / FILE_NAME).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
