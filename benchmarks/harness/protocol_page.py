"""The protocol's tables as Markdown, made of the stored logs alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.harness.protocol import (
    MOST_FACTOR,
    Workload,
    benchmark_score,
    find_target,
    load_workload,
    performance_ratios,
    reached,
    tested,
    times,
)
from benchmarks.harness.spec import Study
from benchmarks.harness.store import load_runs
from benchmarks.harness.tables import table, value_text

NOTHING = "Its runs have not been made yet."
OWN = ("thor", "lngd", "fngd")
"""The methods that this package is there for."""
PROFILE, CURVES = "figures/protocol_profile.png", "figures/protocol_curves.png"


def short(study: Study) -> str:
    """Return a workload's name in tables.

    Args:
        study: The study.
    """
    return study.name.removeprefix("protocol_")


def protocol_section(studies: Sequence[Study], results: Path) -> str:
    """Return what stands between the protocol's markers.

    Args:
        studies: The workloads.
        results: Folder with one folder of logs per study.

    Returns:
        Markdown, ending in a newline.
    """
    workloads = [load_workload(study, results / study.name) for study in studies]
    if not any(workload.curves for workload in workloads):
        return f"{NOTHING}\n"
    parts = [_targets(workloads)]
    for tuned, heading in (
        (True, f"Tuned: the fastest of a method's trials. {_LEGEND}"),
        (False, "Without tuning, the target as well: a method's default, the same everywhere."),
    ):
        taken = times(workloads, tuned=tuned)
        if taken:
            parts += [heading, _scores(workloads, taken, tuned)]
    if times(workloads, tuned=True):
        parts += [
            "Without tuning against tuned baselines: the time of a method's default to the tuned "
            "target, over that of the baseline's fastest trial.",
            _defaults(workloads),
            f"![share of workloads within a factor of the fastest]({PROFILE})",
            f"![metric against time, one panel per workload]({CURVES})",
        ]
    parts.append(_ends(workloads, results))
    return "\n\n".join(part for part in parts if part) + "\n"


_LEGEND = (
    "Cells are the time to the target over that of the baseline that set it, with the epochs in "
    'brackets; "-" where no trial gets there, empty where the method was not run or its step time '
    f"not measured. Profile: the mean of its performance profile from 1 to {MOST_FACTOR:g}."
)


def _targets(workloads: Sequence[Workload]) -> str:
    head = ["workload", "budget, epochs", "metric", "target", "set by", "target of the defaults"]
    rows = []
    for workload in workloads:
        study = workload.study
        found = [find_target(workload, tuned=tuned) for tuned in (True, False)]
        cells = ["not known yet" if t is None else value_text(study, t.value) for t in found]
        setter = "-" if found[0] is None else found[0].baseline
        rows.append(
            [short(study), str(study.epochs), study.metric, cells[0], setter, cells[1]],
        )
    return table(head, rows)


def _scores(
    workloads: Sequence[Workload], taken: Mapping[str, Mapping[str, float]], tuned: bool
) -> str:
    counted = [workload for workload in workloads if workload.study.name in taken]
    ratios = performance_ratios(taken)
    rows = []
    for name in dict.fromkeys(name for row in taken.values() for name in row):
        cells = [_score(workload, taken[workload.study.name], name, tuned) for workload in counted]
        profile = f"{benchmark_score(ratios[name]):.2f}" if name in ratios else ""
        rows.append([name, *cells, profile])
    return table(["method", *(short(workload.study) for workload in counted), "profile"], rows)


def _score(workload: Workload, row: Mapping[str, float], name: str, tuned: bool) -> str:
    target = find_target(workload, tuned=tuned)
    if name not in row or target is None:
        return ""
    there = reached(workload, name, target, tuned=tuned)
    if there is None or not math.isfinite(row[name]):
        return "-"
    return f"{row[name] / row[target.baseline]:.2f} ({there.epochs})"


def _over_tuned(workload: Workload, *, tuned: bool) -> dict[str, float]:
    """Method -> its time to the tuned target, with or without tuning, over the baseline's."""
    target = find_target(workload, tuned=True)
    fastest = times([workload], tuned=True).get(workload.study.name)
    if target is None or fastest is None:
        return {}
    taken = times([workload], tuned=tuned, tuned_target=True)[workload.study.name]
    return {name: seconds / fastest[target.baseline] for name, seconds in taken.items()}


def _ratio(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if math.isfinite(value) else "-"


def _defaults(workloads: Sequence[Workload]) -> str:
    columns = {short(w.study): found for w in workloads if (found := _over_tuned(w, tuned=False))}
    names = dict.fromkeys(name for found in columns.values() for name in found)
    rows = [[name, *(_ratio(found.get(name)) for found in columns.values())] for name in names]
    return table(["method", *columns], rows)


def summary(studies: Sequence[Study], results: Path) -> str:
    """Return a line per workload, for the README.

    Args:
        studies: The workloads.
        results: Folder with one folder of logs per study.

    Returns:
        Markdown, ending in a newline.
    """
    rows = []
    for study in studies:
        workload = load_workload(study, results / study.name)
        target = find_target(workload, tuned=True)
        ratios = _over_tuned(workload, tuned=True)
        if target is None or not ratios:
            continue
        others = {
            name: value for name, value in ratios.items() if name not in (*OWN, *study.baselines)
        }
        best, ratio = min(others.items(), key=lambda item: item[1], default=("", math.inf))
        rows.append(
            [
                study.title,
                f"{target.baseline}: {value_text(study, target.value)}",
                *(_ratio(ratios.get(name)) for name in OWN),
                f"{best} {ratio:.2f}" if math.isfinite(ratio) else _ratio(ratio) if best else "",
                _ratio(_over_tuned(workload, tuned=False).get(OWN[0])),
            ]
        )
    if not rows:
        return f"{NOTHING}\n"
    head = ["workload", "target", *OWN, "best other", f"{OWN[0]}, not tuned"]
    # What no workload has yet takes no room.
    full = [k for k in range(len(head)) if any(row[k] for row in rows)]
    narrow = [[row[k] for k in full] for row in rows]
    return f"{table([head[k] for k in full], narrow)}\n"


def _ends(workloads: Sequence[Workload], results: Path) -> str:
    """The final runs: other seeds, the trial with the best value, the test split read once."""
    columns = []
    for workload in workloads:
        study = workload.study
        cells = {}
        for name, runs in load_runs(study, results / study.name).items():
            curves = [
                [value for row in run.rows if (value := row.get(study.metric)) is not None]
                for run in runs
            ]
            figures = tested(runs, study.metric)
            best = statistics.median(workload.best([curve]) for curve in curves)
            test = value_text(study, statistics.median(figures)) if figures else "-"
            cells[name] = f"{value_text(study, best)}; {test}"
        columns.append(cells)
    names = list(dict.fromkeys(name for cells in columns for name in cells))
    if not names:
        return ""
    rows = [[name, *(cells.get(name, "") for cells in columns)] for name in names]
    head = ["method", *(short(workload.study) for workload in workloads)]
    text = (
        "Runs with other seeds, by the trial with the best value: the best value on the validation "
        "split; the figure of the test split, read once at the end (medians over the seeds)."
    )
    return f"{text}\n\n{table(head, rows)}"
