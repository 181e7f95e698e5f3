"""The list of configuration keys that ``--help`` shows."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Iterable

from mindspore_thor.optim import METHODS
from mindspore_thor.optim.schedules import DAMPING_SCHEDULES, SCHEDULES, schedule_options
from mindspore_thor.run.config import TrainConfig, optimizer_keys
from mindspore_thor.run.sections import REST_RATE
from mindspore_thor.run.tasks import TASKS


def describe_keys() -> list[str]:
    """Return the keys that a configuration may have, as lines for ``--help``."""
    lines = []
    for cls in dict.fromkeys(task.data_config for task in TASKS.values()):
        tasks = [name for name, task in TASKS.items() if task.data_config is cls]
        lines += [f"  --train.task {', '.join(tasks)}:", *_described("data", cls)]
    lines += _described("train", TrainConfig)
    for method in METHODS:
        lines += _wrapped(f"--optimizer.name {method}", "--optimizer.*", optimizer_keys(method))
    for section, names in (("learning_rate", tuple(SCHEDULES)), ("damping", DAMPING_SCHEDULES)):
        for name in names:
            chosen = f"--{section}.schedule {name}"
            lines += _wrapped(chosen, f"--{section}.*", schedule_options(name))
    lines += _wrapped(f"--optimizer.{REST_RATE}", "a number, or keys as", ["--learning_rate.*"])
    return lines


def _described(section: str, cls: type) -> list[str]:
    return [
        f"  {f'--{section}.{item.name}':34} {item.metadata['help']} [{json.dumps(item.default)}]"
        for item in dataclasses.fields(cls)
    ]


def _wrapped(chosen: str, prefix: str, keys: Iterable[str]) -> list[str]:
    text = f"{chosen}: {prefix} {', '.join(keys)}"
    return textwrap.wrap(text, 98, initial_indent="  ", subsequent_indent="      ")
