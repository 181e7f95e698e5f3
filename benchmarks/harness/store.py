"""The small logs that are committed: ``benchmarks/results/<study>/``.

``<method>-seed<k>.jsonl`` holds a run, its origin in the first line and one row per epoch behind;
``<method>.yaml`` the recipe of its final setting; ``tuning.json`` what the tuning phase saw (of the
protocol's trials the whole curves);
``step_time.json`` the step times. Whatever is not there was not run.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.runs import (
    FAILED_NAME,
    RECIPE_NAME,
    RUN_NAME,
    figures_of_test,
    has_more,
    read_rows,
)
from benchmarks.harness.spec import Study
from mindspore_thor.files import held

# Times of single runs stay out: on a shared machine they say little, and every repeat differs.
_KEPT = (
    *("epoch", "loss", "learning_rate", "skipped", "failed_inversions"),
    *("trace_accepted", "trace_kept", "trace_stopped"),
)


@dataclass(frozen=True)
class Run:
    """One stored run.

    Attributes:
        method: Name of the method.
        seed: Its seed.
        origin: Commit, versions and machine.
        rows: One per epoch.
        failed: Why the training stopped early, or None.
    """

    method: str
    seed: int
    origin: dict[str, Any]
    rows: list[dict[str, Any]]
    failed: str | None


def publish(study: Study, method: str, seed: int, source: Path, target: Path) -> None:
    """Store one finished run and what belongs to its method.

    A method has one stored recipe, so its stored runs with other settings make way.

    Args:
        study: The study.
        method: Name of the method.
        seed: The seed.
        source: The study's output folder.
        target: The folder of the stored logs.
    """
    folder = source / method / f"seed-{seed}"
    target.mkdir(parents=True, exist_ok=True)
    recipe = (folder / RECIPE_NAME).read_text(encoding="utf-8")
    stored = target / f"{method}.yaml"
    if stored.is_file() and stored.read_text(encoding="utf-8") != recipe:
        for path in sorted(_logs(method, target)):
            path.unlink()
            print(f"{method}: settings have changed; removed {path}", flush=True)
    stored.write_text(recipe, encoding="utf-8")
    head = json.loads((folder / RUN_NAME).read_text(encoding="utf-8"))
    failed = folder / FAILED_NAME
    if failed.is_file():
        head["failed"] = json.loads(failed.read_text(encoding="utf-8"))["message"]
    tested = figures_of_test(folder)
    if tested is not None:
        head["test"] = tested
    kept = tuple(dict.fromkeys((*_KEPT, *study.task.metrics, study.metric)))
    rows = [{key: row[key] for key in kept if key in row} for row in read_rows(folder)]
    lines = [json.dumps(item) for item in (head, *rows)]
    (target / f"{method}-seed{seed}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    publish_choice(study, method, source, target)


def publish_choice(study: Study, method: str, source: Path, target: Path) -> None:
    """Store what the tuning phase of a method saw, if it had one.

    Args:
        study: The study.
        method: Name of the method.
        source: The study's output folder.
        target: The folder of the stored logs.
    """
    chooser = study.methods[method].tuned_as
    tuned = source / chooser / "tuning.json"
    if tuned.is_file():
        target.mkdir(parents=True, exist_ok=True)
        path = target / "tuning.json"
        # Another process may store another method of the study.
        with held(target, wait=True):
            known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            new = json.loads(tuned.read_text(encoding="utf-8"))
            if chooser in known and has_more(known[chooser], new):
                return
            known[chooser] = new
            path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _logs(method: str, folder: Path) -> list[Path]:
    """The stored logs of a method, of none whose name only begins like it."""
    pattern = re.compile(rf"{re.escape(method)}-seed\d+\.jsonl")
    return [path for path in folder.glob("*.jsonl") if pattern.fullmatch(path.name)]


def load_runs(study: Study, folder: Path) -> dict[str, list[Run]]:
    """Read the stored runs of a study.

    Args:
        study: The study.
        folder: The folder of its stored logs.

    Returns:
        Method -> runs by seed, for the methods that have any, in the study's order.
    """
    found: dict[str, list[Run]] = {}
    for path in folder.glob("*.jsonl"):
        match = re.fullmatch(r"(.+)-seed(\d+)\.jsonl", path.name)
        if match is None:
            continue
        head, *rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        run = Run(match[1], int(match[2]), head, rows, head.get("failed"))
        found.setdefault(run.method, []).append(run)
    order = [*study.methods, *sorted(set(found) - set(study.methods))]
    return {name: sorted(found[name], key=lambda run: run.seed) for name in order if name in found}


def stored_choice(study: Study, method: str, folder: Path, *, defaults: bool = False) -> int | None:
    """Return which candidate the stored tuning phase chose.

    Args:
        study: The study.
        method: Name of the method, or of its shorter form.
        folder: The folder of the stored logs.
        defaults: Whether its first candidate is enough.

    Returns:
        The candidate, from 0; None where no tuning is stored, or one of other candidates.
    """
    name = study.methods[method].tuned_as
    tuned = load_json(folder / "tuning.json").get(name)
    if tuned is None:
        return None
    known = [item["settings"] for item in tuned["candidates"]]
    candidates = list(study.methods[name].candidates)
    if defaults and known[:1] == candidates[:1]:
        return 0
    return tuned["chosen"] if known == candidates else None


def is_stored(study: Study, method: str, candidate: int, seed: int, folder: Path) -> bool:
    """Whether a final run is stored, made with just this recipe.

    Args:
        study: The study.
        method: Name of the method.
        candidate: Which of its candidate settings.
        seed: The seed.
        folder: The folder of the stored logs.
    """
    recipe = folder / f"{method}.yaml"
    if not recipe.is_file() or not (folder / f"{method}-seed{seed}.jsonl").is_file():
        return False
    return recipe.read_text(encoding="utf-8") == study.recipe(method, candidate, tuning=False)


def load_json(path: Path) -> dict[str, Any]:
    """Return a JSON object, an empty one where the file is missing.

    Args:
        path: The file.
    """
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
