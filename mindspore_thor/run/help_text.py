"""The list of configuration keys that ``--help`` shows."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Iterable

from mindspore_thor.optim import METHODS
from mindspore_thor.optim.schedules import DAMPING_SCHEDULES, SCHEDULES, schedule_options
from mindspore_thor.run.config import DataConfig, TrainConfig, optimizer_keys
from mindspore_thor.run.sections import REST_RATE


def describe_keys() -> list[str]:
    """Return the keys that a configuration may have, as lines for ``--help``."""
    lines = []
    for name, cls in (("data", DataConfig), ("train", TrainConfig)):
        for item in dataclasses.fields(cls):
            default = json.dumps(item.default)
            lines.append(f"  {f'--{name}.{item.name}':34} {item.metadata['help']} [{default}]")
    for method in METHODS:
        lines += _wrapped(f"--optimizer.name {method}", "--optimizer.*", optimizer_keys(method))
    for section, names in (("learning_rate", tuple(SCHEDULES)), ("damping", DAMPING_SCHEDULES)):
        for name in names:
            chosen = f"--{section}.schedule {name}"
            lines += _wrapped(chosen, f"--{section}.*", schedule_options(name))
    lines += _wrapped(f"--optimizer.{REST_RATE}", "a number, or keys as", ["--learning_rate.*"])
    return lines


def _wrapped(chosen: str, prefix: str, keys: Iterable[str]) -> list[str]:
    text = f"{chosen}: {prefix} {', '.join(keys)}"
    return textwrap.wrap(text, 98, initial_indent="  ", subsequent_indent="      ")
