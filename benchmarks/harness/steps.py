"""Step times of a study's methods on the study's own model and data, interleaved in one process."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import models
from benchmarks.harness.provenance import provenance
from benchmarks.harness.spec import BASELINE, Study
from benchmarks.step_time import Runner, amortised_seconds
from mindspore_thor.errors import UserError
from mindspore_thor.optim.fngd import FNGD
from mindspore_thor.train.build import Session, build_session
from mindspore_thor.train.config import load_config, parse_overrides

SKIPPED_ROUNDS = 2
FILE_NAME = "step_time.json"


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


def measure(
    study: Study, names: list[str], results: Path, data_path: str | None, rounds: int
) -> None:
    """Measure and store the step times; SGD is always among them.

    Each round runs one step of every kind of every method, so that a drift of the machine's speed
    hits all alike. Every round really inverts: what THOR's trace rule saves is not in the figures.

    Args:
        study: The study.
        names: The methods.
        results: Folder of the stored logs; its ``<method>.yaml`` is used where there is one, and
            otherwise the method's first candidate.
        data_path: Folder of the data set, or None for what the recipes say.
        rounds: Measured rounds; two more come before.

    Raises:
        UserError: If the study has no method ``sgd`` to compare with, or a recipe is wrong.
    """
    if BASELINE not in study.methods:
        raise UserError(f"{study.name}: has no method {BASELINE!r} to compare with; add it")
    runners: dict[str, tuple[Runner, Session, Any]] = {}
    steps_per_epoch = 0
    # The steps of a method's shorter form are its own.
    for name in dict.fromkeys([BASELINE, *(study.methods[name].tuned_as for name in names)]):
        recipe = results / f"{name}.yaml"
        with tempfile.TemporaryDirectory() as folder:
            if not recipe.is_file():
                recipe = Path(folder) / "recipe.yaml"
                recipe.write_text(study.recipe(name, 0, tuning=False), encoding="utf-8")
            session = _session(study, name, recipe, data_path)
        steps_per_epoch = session.train_data.steps_per_epoch
        images, labels = next(session.train_data.epoch(0))
        batch = session.config.task.inputs(images, labels)
        runner = Runner(session.config.optimizer.name, session.step, 1, 1)
        runners[name] = (runner, session, batch)
    for index in range(rounds + SKIPPED_ROUNDS):
        for runner, _, batch in runners.values():
            runner.round(batch)
        print(f"round {index + 1}/{rounds + SKIPPED_ROUNDS}", file=sys.stderr, flush=True)
    path = results / FILE_NAME
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
    content = {
        **provenance(),
        "rounds": rounds,
        "steps_per_epoch": steps_per_epoch,
        "methods": measured,
    }
    results.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for name, row in measured.items():
        ratio = row["amortised"] / measured[BASELINE]["amortised"]
        print(f"{name:<12} {1e3 * row['amortised']:8.1f} ms, {ratio:.3f} x SGD")
