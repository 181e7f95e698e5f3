"""A study: one model and data set, several methods, the same small tuning budget for each."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from benchmarks.harness.protocol_file import LENGTH, check_protocol, filled_in
from mindspore_thor.errors import UserError
from mindspore_thor.run.task import Task
from mindspore_thor.run.tasks import TASKS
from mindspore_thor.run.yaml_files import Settings, parse_tree, read_text
from mindspore_thor.run.yaml_text import dump_yaml

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results"
STUDIES = ROOT / "benchmarks" / "studies"

BASELINE = "sgd"
"""The method that the others are compared with, where a study names no other."""

_TITLES = {"sgd": "SGD", "adamw": "AdamW", "nadamw": "NAdamW"}

# A study keeps what an exact resume needs, and no more.
_RUN_DEFAULTS = {
    "keep_best": False,
    "keep_checkpoints": 1,
    "checkpoint_every_epochs": 1,
    "log_every": 0,
}
_KEYS = ("title", "family", "targets", "seeds", "common", "tuning", "methods")
_KNOWN_KEYS = (*_KEYS, "shorter", "longer", "baseline", "metric", "baselines")


@dataclass(frozen=True)
class Method:
    """A method of a study.

    Attributes:
        name: Its name in tables.
        settings: What it adds to the common recipe.
        candidates: Settings by dotted keys, one of which the tuning phase chooses.
        epochs: Length of its final runs, over which its schedule is stretched.
        tuned_as: The method whose tuning it shares: itself, or what it is the shorter form of.
    """

    name: str
    settings: dict[str, Any]
    candidates: tuple[dict[str, Any], ...]
    epochs: int
    tuned_as: str


@dataclass(frozen=True)
class Study:
    """A study as its file describes it.

    Attributes:
        name: The file's name without its ending.
        title: Heading in tables and figures.
        family: Folder below ``models/`` whose README carries the results.
        targets: Values of the metric that a run should reach, easiest first.
        seeds: Seeds of the final runs.
        common: The recipe that all methods share.
        epochs: The budget: length of a final run, where it is not one of ``shorter``.
        shorter: Lengths of further final runs of every method, with the schedule made so much
            shorter; such a form of a method is a method of its own, ``<name>-<epochs>ep``.
        longer: Lengths of further final runs of the baseline alone: how long it takes to what the
            others reach within the budget.
        tuning_epochs: Length of a tuning run.
        tuning_seed: Its seed, which is none of ``seeds``.
        tuning_common: What the recipes of tuning runs have otherwise, a smaller net for instance.
        methods: Name -> method, in the order in which they run.
        baseline: The method that the others are compared with.
        metric: The name of the metric in ``metrics.jsonl``.
        baselines: Of a workload of the protocol: the methods the better of which sets the target.
            Empty for other studies.
    """

    name: str
    title: str
    family: str
    targets: tuple[float, ...]
    seeds: tuple[int, ...]
    common: dict[str, Any]
    epochs: int
    shorter: tuple[int, ...]
    longer: tuple[int, ...]
    tuning_epochs: int
    tuning_seed: int
    tuning_common: dict[str, Any]
    methods: dict[str, Method]
    baseline: str
    metric: str
    baselines: tuple[str, ...] = ()

    @property
    def task(self) -> Task:
        """What the runs learn."""
        return TASKS[self.common.get("train", {}).get("task", "classify")]

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller value of the metric is the better one."""
        return self.task.lower_is_better or self.metric == self.task.loss_metric

    @property
    def percent(self) -> bool:
        """Whether the metric is a share, shown in per cent."""
        return self.task.percent and self.metric != self.task.loss_metric

    @property
    def validates(self) -> bool:
        """Whether the metric is taken on a validation split, and the test split at runs' ends."""
        known = {field.name for field in fields(self.task.data_config)}
        part = {key: value for key, value in self.common["data"].items() if key in known}
        return self.task.tested(self.task.data_config(**part))

    @property
    def baseline_title(self) -> str:
        """The baseline's name in texts."""
        return _TITLES.get(self.baseline, self.baseline)

    def is_baseline(self, name: str) -> bool:
        """Whether this is the baseline, or a shorter or longer form of it.

        Args:
            name: Name of a method; may be one that the study no longer has.

        Returns:
            True for the baseline in any length of run; False also for a name that the study does
            not have.
        """
        return name in self.methods and self.methods[name].tuned_as == self.baseline

    def length(self, method: str, candidate: int, *, tuning: bool) -> int:
        """Return the epochs of a run.

        Args:
            method: Name of the method.
            candidate: Which of its candidate settings, from 0.
            tuning: Whether it is a run of the tuning phase.
        """
        chosen = self.methods[method]
        share = chosen.candidates[candidate].get(LENGTH, 1.0)
        return max(1, round(share * (self.tuning_epochs if tuning else chosen.epochs)))

    def recipe(self, method: str, candidate: int, *, tuning: bool) -> str:
        """Return the recipe of a run, without seed and data path.

        Args:
            method: Name of the method.
            candidate: Which of its candidate settings, from 0.
            tuning: Whether it is a run of the tuning phase.

        Returns:
            YAML text.
        """
        chosen = self.methods[method]
        merged = Settings({"train": dict(_RUN_DEFAULTS)})
        # Trials choose: they must not see what the choice is measured by in the end.
        unseen = {"test": False} if tuning and self.baselines else {}
        layers = (
            self.common,
            chosen.settings,
            _nested(chosen.candidates[candidate]),
            self.tuning_common if tuning else {},
            {"train": {"epochs": self.length(method, candidate, tuning=tuning), **unseen}},
        )
        for layer in layers:
            merged.merge(Settings({key: value for key, value in layer.items()}))
        return dump_yaml(merged.tree)


def _nested(dotted: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in dotted.items():
        if key == LENGTH:
            continue
        *sections, name = key.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return tree


def load_study(path: Path) -> Study:
    """Read a study's file.

    Args:
        path: ``benchmarks/studies/*.yaml``.

    Returns:
        The study; its recipes are checked by :func:`benchmarks.harness.runs.check_recipes`.

    Raises:
        UserError: If the file cannot be read, or a part of it is missing or wrong.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such study; give one of benchmarks/studies/*.yaml")
    tree = parse_tree(read_text(path, str(path)), str(path))
    tree = filled_in(path, tree)
    for key in tree:
        if key not in _KNOWN_KEYS:
            raise UserError(f"{path}: unknown key {key!r}; known are {', '.join(_KNOWN_KEYS)}")
    for key in _KEYS:
        if tree.get(key) in (None, [], {}) and not (key == "targets" and "baselines" in tree):
            raise UserError(f"{path}: {key} is missing; add it")
    seeds, tuning = tree["seeds"], tree["tuning"]
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
        raise UserError(f"{path}: seeds is {seeds!r}; give a list of whole numbers")
    if not isinstance(tuning, dict) or set(tuning) - {"common"} != {"epochs", "seed"}:
        raise UserError(
            f"{path}: tuning needs 'epochs' and 'seed', and may have 'common', but nothing else"
        )
    if tuning["seed"] in seeds:
        raise UserError(f"{path}: tuning.seed {tuning['seed']} is also a final seed; give another")
    tuning_common = tuning.get("common", {})
    for key, part in (
        ("common", tree["common"]),
        ("methods", tree["methods"]),
        ("tuning.common", tuning_common),
    ):
        if not isinstance(part, dict):
            raise UserError(f"{path}: {key} is {part!r}; give a section with keys below it")
    epochs, shorter, longer = _lengths(path, tree)
    baseline, metric = _compared(path, tree)
    study = Study(
        name=path.stem,
        title=str(tree["title"]),
        family=str(tree["family"]),
        targets=tuple(float(target) for target in tree["targets"]),
        seeds=tuple(seeds),
        common=tree["common"],
        epochs=epochs,
        shorter=shorter,
        longer=longer,
        tuning_epochs=tuning["epochs"],
        tuning_seed=tuning["seed"],
        tuning_common=tuning_common,
        methods=_methods(path, tree, epochs, shorter, longer),
        baseline=baseline,
        metric=metric,
        baselines=tuple(tree.get("baselines", ())),
    )
    if study.baselines and not study.validates:
        raise UserError(
            f"{path}: common.data.validation is missing; say how many training images decide, so "
            "that the test images do not"
        )
    return study


def _lengths(path: Path, tree: dict[str, Any]) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """The budget, and the lengths of further final runs below and above it."""
    epochs = tree["common"].get("train", {}).get("epochs")
    if type(epochs) is not int:
        raise UserError(f"{path}: common.train.epochs is {epochs!r}; give a whole number")
    shorter, longer = tree.get("shorter", []), tree.get("longer", [])
    if not _whole_numbers(shorter) or not all(0 < length < epochs for length in shorter):
        raise UserError(
            f"{path}: shorter is {shorter!r}; give a list of whole numbers from 1 to {epochs - 1}"
        )
    if not _whole_numbers(longer) or not all(length > epochs for length in longer):
        raise UserError(
            f"{path}: longer is {longer!r}; give a list of whole numbers above {epochs}"
        )
    baseline = tree.get("baseline", BASELINE)
    if longer and baseline not in tree["methods"]:
        raise UserError(f"{path}: longer is for {baseline!r}, which is no method here; add it")
    return epochs, tuple(shorter), tuple(longer)


def _compared(path: Path, tree: dict[str, Any]) -> tuple[str, str]:
    """The baseline, and the metric that methods are compared by."""
    baseline = tree.get("baseline", BASELINE)
    if "baseline" in tree and baseline not in tree["methods"]:
        raise UserError(f"{path}: baseline {baseline!r} is no method here; add it")
    task = TASKS[tree["common"].get("train", {}).get("task", "classify")]
    known = [name for name in (*task.metrics, task.loss_metric) if name]
    metric = tree.get("metric", known[0])
    if metric not in known:
        raise UserError(f"{path}: metric is {metric!r}; give one of {', '.join(known)}")
    return baseline, metric


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


def _methods(
    path: Path,
    tree: dict[str, Any],
    epochs: int,
    shorter: tuple[int, ...],
    longer: tuple[int, ...],
) -> dict[str, Method]:
    methods = {}
    for name, part in tree["methods"].items():
        if not isinstance(part, dict) or set(part) != {"settings", "candidates"}:
            raise UserError(f"{path}: method {name!r} needs exactly 'settings' and 'candidates'")
        candidates = part["candidates"]
        if not isinstance(candidates, list) or not candidates:
            raise UserError(f"{path}: candidates of {name!r} must be a list of settings")
        for item in candidates:
            if not isinstance(item, dict) or not all("." in key or key == LENGTH for key in item):
                raise UserError(
                    f"{path}: candidate {item!r} of {name!r}: give dotted keys, for instance "
                    "{learning_rate.peak: 0.1}"
                )
        methods[name] = Method(name, part["settings"], tuple(candidates), epochs, name)
    budgets = {name: len(method.candidates) for name, method in methods.items()}
    if len(set(budgets.values())) > 1:
        raise UserError(f"{path}: the tuning budgets differ ({budgets}); give all the same number")
    if "baselines" in tree:
        check_protocol(path, {name: part.candidates for name, part in methods.items()})
    tuned = list(methods.values())
    forms = [(method, length) for length in shorter for method in tuned]
    forms += [(methods[tree.get("baseline", BASELINE)], length) for length in longer]
    for method, length in forms:
        name = f"{method.name}-{length}ep"
        methods[name] = replace(method, name=name, epochs=length)
    return methods
