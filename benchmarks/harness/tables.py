"""A study's results as Markdown, made of the stored logs alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.analysis import (
    Summary,
    baseline_lengths,
    epochs_to,
    equivalent_epochs,
    metric_curve,
    summarise,
)
from benchmarks.harness.spec import ROOT, Study
from benchmarks.harness.store import Run, load_json, load_runs

NOTHING = "No runs are stored yet."


def figure_names(study: Study) -> tuple[str, str, str]:
    """Return the file names of a study's figures: against epochs, against time, ends of runs.

    Args:
        study: The study.
    """
    return (
        f"figures/{study.name}_epochs.png",
        f"figures/{study.name}_time.png",
        f"figures/{study.name}_ends.png",
    )


def section(study: Study, results: Path) -> str:
    """Return what stands between a study's markers.

    Args:
        study: The study.
        results: The folder of its stored logs.

    Returns:
        Markdown, ending in a newline.
    """
    runs = load_runs(study, results)
    step_time = load_json(results / "step_time.json")
    summaries = summarise(study, runs, step_time)
    parts = [f"### {study.title}", _budget(study)]
    if not summaries:
        return "\n\n".join([*parts, NOTHING]) + "\n"
    parts.append(_summary_table(study, summaries))
    parts.append(_notes(study, step_time))
    parts.append(_equal_table(study, summaries))
    epochs, time, ends = figure_names(study)
    if has_ends(study, summaries):
        parts.append(f"![{study.metric} of whole runs against their time]({ends})")
    parts.append(f"![{study.metric} against epochs]({epochs})")
    if any(summary.seconds is not None for summary in summaries.values()):
        parts.append(f"![{study.metric} against time]({time})")
    if step_time:
        parts.append(_step_table(study, step_time))
    parts.append(_tuning_table(study, load_json(results / "tuning.json")))
    parts.append(_run_table(study, runs, results))
    return "\n\n".join(part for part in parts if part) + "\n"


def value_text(study: Study, value: float) -> str:
    """Return a value of the study's metric as text.

    Args:
        study: The study.
        value: The metric.
    """
    return f"{100 * value:.2f} %" if study.percent else f"{value:.3f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown.

    Args:
        head: What stands above the columns.
        rows: Cells.
    """
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _budget(study: Study) -> str:
    count = len(next(iter(study.methods.values())).candidates)
    other = "".join(
        f", {section}.{key} {value}"
        for section, part in study.tuning_common.items()
        for key, value in part.items()
    )
    text = (
        f"`benchmarks/studies/{study.name}.yaml`: {study.epochs} epochs, batch "
        f"{study.common['data']['batch_size']}. "
    )
    if count == 1:
        text += "No tuning: every setting that was run is a row of its own."
    else:
        where = "validation split" if study.validates else "test images"
        text += (
            f"Tuning, the same for every method: {count} candidates, {study.tuning_epochs} "
            f"epoch(s) each with seed {study.tuning_seed}{other}; the best {study.metric} on the "
            f"{where} decides."
        )
    for length in study.shorter:
        text += (
            f" Rows `NAME-{length}ep`: the same settings, with the schedule brought to its end in "
            f"{length} epochs."
        )
    if study.longer:
        lengths = " and ".join(map(str, study.longer))
        title = study.baseline_title
        text += f" {title}, with the same settings, has runs of {lengths} epochs as well."
    return text


def _reached(summary: Summary, target: float, lower: bool) -> str:
    epoch = epochs_to(summary.curve, target, lower)
    if epoch is None:
        return "-"
    if summary.seconds is None:
        return str(epoch)
    return f"{epoch} x {summary.seconds:.1f} s = {epoch * summary.seconds:.0f} s"


def _summary_table(study: Study, summaries: dict[str, Summary]) -> str:
    lower = study.lower_is_better
    sgd = summaries.get(study.baseline)
    relation = "<=" if lower else ">="
    base = study.baseline_title
    head = ["method", "seeds", "best (epoch)", "last", "s/epoch", f"/ {base}"]
    head += [f"{relation} {value_text(study, target)}" for target in study.targets]
    others = [name for name in study.task.metrics if name != study.metric]
    others = others if study.metric == study.task.loss_metric else []
    head += [f"{name}, last" for name in others]
    head += [f"to {base}'s best", f"time / {base}'s"] if sgd else []
    rows = []
    for name, item in summaries.items():
        row = [
            name,
            str(len(item.runs)),
            f"{value_text(study, item.best)} ({item.best_epoch})",
            value_text(study, item.last),
            "-" if item.seconds is None else f"{item.seconds:.1f}",
            "-" if item.ratio is None else f"{item.ratio:.2f}",
            *(_reached(item, target, lower) for target in study.targets),
        ]
        row += [_last_of(study, item, name) for name in others]
        if sgd:
            row += [_reached(item, sgd.best, lower), _against_sgd(item, sgd, lower)]
        rows.append(row)
    return table(head, rows)


def _last_of(study: Study, item: Summary, metric: str) -> str:
    """The median of another metric at the runs' ends; shares in per cent."""
    ends = [run.rows[-1][metric] for run in item.runs if run.rows and metric in run.rows[-1]]
    if not ends:
        return "-"
    value = statistics.median(ends)
    return f"{100 * value:.1f} %" if study.task.percent else f"{value:.1f}"


def _against_sgd(item: Summary, sgd: Summary, lower: bool) -> str:
    epoch = epochs_to(item.curve, sgd.best, lower)
    if epoch is None or item.ratio is None:
        return "-"
    return f"{epoch * item.ratio / sgd.best_epoch:.2f}"


def has_ends(study: Study, summaries: dict[str, Summary]) -> bool:
    """Whether whole runs of several lengths can be drawn against their time.

    Args:
        study: The study.
        summaries: Method -> summary.
    """
    sgd = summaries.get(study.baseline)
    return (
        sgd is not None and sgd.seconds is not None and len(baseline_lengths(study, summaries)) > 1
    )


def _equal_table(study: Study, summaries: dict[str, Summary]) -> str:
    """How long the baseline takes for what each method reaches; empty with one length of it."""
    known = baseline_lengths(study, summaries)
    if len(known) < 2:
        return ""
    rows = []
    for name, item in summaries.items():
        if name not in study.methods or study.is_baseline(name):
            continue
        length = study.methods[name].epochs
        epochs = equivalent_epochs(known, item.best, study.lower_is_better)
        if epochs is None:
            return ""
        sign, bound = "", epochs
        if epochs in (0.0, math.inf):
            sign, bound = ("<", known[0][0]) if epochs == 0.0 else (">", known[-1][0])
        # A bound on the baseline's epochs is one the other way round on the ratio.
        other = {"<": "> ", ">": "< ", "": ""}[sign]
        time = "-" if item.ratio is None else f"{other}{length * item.ratio / bound:.2f}"
        needed = f"{sign} {bound}" if sign else f"{bound:.1f}"
        rows.append([name, str(length), value_text(study, item.best), needed, time])
    if not rows:
        return ""
    base = study.baseline_title
    head = ["method", "its epochs", "its best", f"{base}'s epochs for that", f"time / {base}'s"]
    values = ", ".join(f"{value_text(study, value)} with {length}" for length, value in known)
    return (
        f"What the same value takes with {base}, whose runs end at {values} epochs; between these "
        "its best is taken to be linear in the logarithm of the epochs:\n\n" + table(head, rows)
    )


def _notes(study: Study, step_time: dict[str, Any]) -> str:
    text = (
        'Columns with a target: epochs to it x seconds per epoch = time; "-" means not reached '
        "within its epochs. Values are the median over the seeds after each epoch."
    )
    if step_time:
        text += (
            " Seconds per epoch are the amortised step times below times "
            f"{step_time['steps_per_epoch']} steps: data loading, evaluation and compilation are "
            "not in them."
        )
    else:
        text += " Step times were not measured yet, so that only epochs are shown."
    return text


def _step_table(study: Study, step_time: dict[str, Any]) -> str:
    base = step_time["methods"][study.baseline]["plain"]
    title = study.baseline_title
    head = ["method", "plain", "factor", "inverse alone", "amortised", f"amortised / {title}"]
    rows = []
    for name, row in step_time["methods"].items():
        if name in study.methods and study.methods[name].tuned_as != name:
            continue
        cells = [
            f"{1e3 * row[kind]:.1f} ms" if kind in row else "-"
            for kind in ("plain", "factor", "inverse", "amortised")
        ]
        rows.append([name, *cells, f"{row['amortised'] / base:.3f}"])
    how = (
        f"each interleaved with {title} in a process of its own, scaled to {title}'s median over "
        "these"
        if step_time.get("paired")
        else "all methods interleaved in one process"
    )
    return (
        f"Step times, medians of {step_time['rounds']} rounds, {how} "
        f"({step_time['machine']}; commit {step_time['commit']}; "
        f"{_versions(step_time)}). Every round really inverts: what THOR's trace rule saves is not "
        "in them. FNGD's factor steps are those of its first epoch.\n\n" + table(head, rows)
    )


def _tuning_table(study: Study, tuning: dict[str, Any]) -> str:
    rows = []
    for name in (name for name in study.methods if name in tuning):
        tried = tuning[name]["candidates"]
        cells = []
        for index, item in enumerate(tried):
            settings = ", ".join(f"{key} {value:g}" for key, value in item["settings"].items())
            value = "diverged" if item["value"] is None else value_text(study, item["value"])
            mark = "**" if index == tuning[name]["chosen"] else ""
            cells.append(f"{mark}{settings}: {value}{mark}")
        rows.append([name, "; ".join(cells)])
    if not rows:
        return ""
    return "Tuning, the chosen candidate in bold:\n\n" + table(["method", "candidates"], rows)


def _run_table(study: Study, runs: dict[str, list[Run]], results: Path) -> str:
    lower = study.lower_is_better
    worst = float("inf") if lower else float("-inf")
    head = ["method", "seed", "best", "last", "commit", "versions", "command"]
    rows = []
    for name, group in runs.items():
        for run in group:
            curve = metric_curve(run.rows, study.metric, worst)
            best = (min(curve) if lower else max(curve)) if curve else worst
            last = value_text(study, curve[-1]) if curve else "-"
            recipe = _shown(results / f"{name}.yaml")
            rows.append(
                [
                    name,
                    str(run.seed),
                    value_text(study, best),
                    "diverged" if run.failed else last,
                    run.origin["commit"],
                    _versions(run.origin),
                    f"`python train.py --config_path {recipe} --train.seed {run.seed}`",
                ]
            )
    text = "Runs (add `--data_path` for the data's folder to a command):"
    return f"{text}\n\n{table(head, rows)}"


def _shown(path: Path) -> str:
    try:
        return path.resolve().relative_to(ROOT).as_posix()
    except ValueError:
        return path.name


def _versions(origin: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
