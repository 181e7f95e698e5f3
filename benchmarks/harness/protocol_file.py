"""What all workloads of the protocol share: methods, their search spaces, baselines, seeds.

A study that has the key ``protocol`` is a workload. The key names this file, and the study itself
only says what is trained on what, for how long at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mindspore_thor.errors import UserError
from mindspore_thor.run.yaml_files import parse_tree, read_text

LENGTH = "length"
"""A candidate's key: the share of the budget after which its schedule is at its end."""

_KEYS = ("trials", "trial_seed", "seeds", "baselines", "methods")
_OF_WORKLOADS = ("protocol", "title", "metric", "common")


def filled_in(path: Path, tree: dict[str, Any]) -> dict[str, Any]:
    """Add to a workload what the protocol says.

    Args:
        path: The study's file.
        tree: Its content.

    Returns:
        The content of an ordinary study, with ``baselines``; other studies as they are.

    Raises:
        UserError: If the protocol's file or the workload has a key too few or too many, or the
            methods have not all the same number of trials.
    """
    if "baselines" in tree:
        raise UserError(f"{path}: unknown key 'baselines'; it belongs into the protocol's file")
    if "protocol" not in tree:
        return tree
    for key in tree:
        if key not in _OF_WORKLOADS:
            raise UserError(
                f"{path}: {key} is not for a workload of the protocol, which has "
                f"{', '.join(_OF_WORKLOADS)}; remove it"
            )
    source = path.parent / str(tree["protocol"])
    if not source.is_file():
        raise UserError(f"{path}: protocol is {tree['protocol']!r}; no such file beside the study")
    shared = parse_tree(read_text(source, str(source)), str(source))
    if set(shared) != set(_KEYS):
        raise UserError(f"{source}: needs exactly the keys {', '.join(_KEYS)}")
    methods, baselines, trials = shared["methods"], shared["baselines"], shared["trials"]
    if not isinstance(methods, dict):
        raise UserError(f"{source}: methods is {methods!r}; give a section with keys below it")
    if not isinstance(baselines, list) or not baselines or not set(baselines) <= set(methods):
        raise UserError(
            f"{source}: baselines is {baselines!r}; give a list of some of {', '.join(methods)}"
        )
    for name, part in methods.items():
        own = part.get("candidates") if isinstance(part, dict) else None
        count = len(own) if isinstance(own, list) else 0
        if count != trials:
            raise UserError(
                f"{source}: {name!r} has {count} trials; every method has exactly {trials!r}"
            )
    common = tree.get("common")
    train = common.get("train") if isinstance(common, dict) else None
    epochs = train.get("epochs") if isinstance(train, dict) else None
    given = {key: value for key, value in tree.items() if key != "protocol"}
    return {
        **given,
        "family": "",
        "targets": [],
        "seeds": shared["seeds"],
        # A trial has the whole budget.
        "tuning": {"epochs": epochs, "seed": shared["trial_seed"]},
        "methods": methods,
        "baseline": baselines[0],
        "baselines": baselines,
    }


def check_protocol(path: Path, spaces: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Refuse search spaces whose trials could not be compared.

    Args:
        path: The study's file.
        spaces: Method -> its candidates.

    Raises:
        UserError: If a length is no share of the budget, a trial is there twice, or one changes an
            interval: a method's step time is measured once, for all of its trials.
    """
    for name, candidates in spaces.items():
        for number, item in enumerate(candidates):
            share = item.get(LENGTH, 1.0)
            if type(share) not in (int, float) or not 0.0 < share <= 1.0:
                raise UserError(
                    f"{path}: {LENGTH} of a trial of {name!r} is {share!r}; give a number above 0 "
                    "and at most 1, the share of the budget"
                )
            changing = [key for key in item if key.endswith("interval")]
            if changing:
                raise UserError(
                    f"{path}: a trial of {name!r} has {changing[0]}, which changes its step time; "
                    "make it a setting"
                )
            if item in candidates[:number]:
                raise UserError(f"{path}: {name!r} has the trial {dict(item)!r} twice; change one")
