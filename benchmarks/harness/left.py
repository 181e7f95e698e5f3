"""What is left of a study, and how long it will take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.runs import is_finished, read_rows
from benchmarks.harness.spec import Study
from benchmarks.harness.store import is_stored, load_json, stored_choice


@dataclass(frozen=True)
class Left:
    """What a method still has to run in a study.

    Attributes:
        runs: Runs that are not at their end.
        epochs: Their epochs that are not done.
        seconds: How long these take, or None where nothing says so.
    """

    runs: int
    epochs: int
    seconds: float | None


def what_is_left(
    study: Study,
    names: Sequence[str],
    output: Path,
    results: Path,
    seeds: int | None,
    missing: bool,
    defaults: bool = False,
) -> dict[str, Left]:
    """Count what is left.

    Args:
        study: The study.
        names: The methods.
        output: The folder of its runs.
        results: The folder of its stored logs.
        seeds: How many of its seeds; None for all.
        missing: Whether what is stored counts as done.
        defaults: Only the first candidate's run.

    Returns:
        Method -> what is left of it. An epoch takes what the method's own took here, evaluation and
        compilation included, or where it has none yet its step time times the steps.
    """
    found: dict[str, Left] = {}
    tuned: set[str] = set()
    for name in names:
        root = study.methods[name].tuned_as
        chosen = stored_choice(study, name, results, defaults=defaults) if missing else None
        lengths: list[tuple[Path, int]] = []
        count = len(study.methods[root].candidates)
        if chosen is None and count > 1 and root not in tuned:
            tuned.add(root)
            lengths += [
                (output / root / f"tuning-{k + 1}", study.length(root, k, tuning=True))
                for k in range(1 if defaults else count)
            ]
        if chosen is None:
            # Before the choice: the longest that it may come to.
            chosen = load_json(output / root / "tuning.json").get("chosen")
        guesses = range(count) if chosen is None else [chosen]
        length = max(study.length(name, k, tuning=False) for k in guesses)
        for seed in () if defaults else study.seeds[:seeds]:
            if missing and chosen is not None and is_stored(study, name, chosen, seed, results):
                continue
            lengths.append((output / name / f"seed-{seed}", length))
        open_runs = [
            epochs - len(read_rows(folder))
            for folder, epochs in lengths
            if not is_finished(folder, epochs)
        ]
        each = _seconds(study, name, output, results)
        total = sum(open_runs)
        seconds = 0.0 if not total else None if each is None else each * total
        found[name] = Left(len(open_runs), total, seconds)
    return found


def _seconds(study: Study, name: str, output: Path, results: Path) -> float | None:
    """Seconds per epoch."""
    root = study.methods[name].tuned_as
    clocks, epochs = 0.0, 0
    for folder in (*(output / root).glob("*-*"), *(output / name).glob("seed-*")):
        rows = read_rows(folder)
        if rows and "wall_clock" in rows[-1]:
            clocks += rows[-1]["wall_clock"]
            epochs += len(rows)
    if epochs:
        return clocks / epochs
    stored = load_json(results / "step_time.json")
    time = stored.get("methods", {}).get(name)
    return None if time is None else float(time["amortised"] * stored["steps_per_epoch"])


def report(study: Study, left: dict[str, Left]) -> list[str]:
    """Return a line per method with something left.

    Args:
        study: The study.
        left: From :func:`what_is_left`.
    """
    return [
        f"{study.name}: {name}: {item.runs} run(s), {item.epochs} epoch(s), {_time(item.seconds)}"
        for name, item in left.items()
        if item.runs
    ]


def total(parts: Sequence[Left]) -> str:
    """Return the line below all of them.

    Args:
        parts: What is left of every method of every study.
    """
    runs = sum(item.runs for item in parts)
    known = sum(item.seconds for item in parts if item.seconds is not None)
    unknown = sum(item.runs for item in parts if item.seconds is None)
    text = f"left: {runs} run(s), {_time(known)}"
    if unknown:
        text += f", and {unknown} run(s) whose step time was not measured (--step_time 8)"
    return text


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "time unknown"
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
