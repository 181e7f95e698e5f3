"""Writes docs/api.md: the public names, their signatures and docstrings.

    python docs/make_api.py [--check]

``--check`` writes nothing and ends with 1 where the page is not what the docstrings say.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "api.md"
sys.path.insert(0, str(ROOT))

SECTIONS = {
    "mindspore_thor": (
        *("THOR", "FNGD", "LNGD", "KFAC", "EKFAC", "TKFAC", "Eva", "Shampoo", "SOAP", "Muon"),
        *("TrainStep", "TokenMeanLoss", "mark_tokens", "StopOnFailure", "UserError"),
    ),
    "mindspore_thor.optim": ("SecondOrder", "create_optimizer", "optimizer_options"),
    "mindspore_thor.methods.sgd": ("sgd",),
    "mindspore_thor.methods.adamw": ("adamw",),
    "mindspore_thor.methods.nadamw": ("nadamw",),
    "mindspore_thor.optim.report": ("LayerReport",),
    "mindspore_thor.layers.coverage": ("LayerRow",),
    "mindspore_thor.optim.schedules": (
        *("ConstantSchedule", "PolynomialDecay", "WarmupPolynomialDecay", "CosineDecay"),
        *("StepDecay", "ExponentialDecay", "create_schedule"),
    ),
    "mindspore_thor.layers": ("LayerType", "Form", "register_layer_type"),
    "mindspore_thor.cache.compile_cache": ("CompileCache",),
    "mindspore_thor.data": ("create_data", "available_data"),
    "mindspore_thor.data.text": (
        *("create_text", "available_text", "TextOptions", "TextData", "EvaluationBatch"),
        *("Dropped", "open_vocabulary", "translation_scores", "Scores"),
    ),
    "mindspore_thor.data.pretraining": (
        *("create_pretraining", "available_pretraining", "PretrainingOptions", "PretrainingData"),
    ),
    "mindspore_thor.data.language": (
        *("create_language", "available_language", "LanguageData", "LanguageBatch"),
    ),
    "mindspore_thor.adapters.mindcv": ("install",),
    "mindspore_thor.runtime": ("prepare_target", "read_arguments_in_python"),
    "mindspore_thor.errors": ("TrainingError",),
}
"""Module -> the names of it that users call."""

METHODS = {
    "SecondOrder": ("layer_report",),
    "LayerReport": ("summary", "table"),
    "TrainStep": ("plain_step",),
    "TextData": ("epoch", "evaluation", "dataset"),
    "PretrainingData": ("epoch", "evaluation"),
    "LanguageData": ("epoch", "evaluation"),
}
"""Class -> its methods that users call."""

_HEADINGS = (
    *("Args", "Returns", "Raises", "Attributes", "Inputs", "Outputs", "Yields", "Examples"),
)


def signature(name: str, value: Any) -> str:
    """How it is called, one keyword on a line where it is long."""
    found = inspect.signature(value.__init__ if inspect.isclass(value) else value)
    parts = [
        re.sub(r"\bmindspore_thor(\.\w+)+\.(?=\w)", "", str(parameter))
        for key, parameter in found.parameters.items()
        if key != "self"
    ]
    parts = [re.sub(r": '([^']*)'", r": \1", part) for part in parts]
    parts = [re.sub(r"<function (\w+) at \w+>", r"\1", part) for part in parts]
    text = f"{name}({', '.join(parts)})"
    if len(text) > 90:
        text = f"{name}(\n    " + ",\n    ".join(parts) + ",\n)"
    return text


def prose(docstring: str) -> Iterator[str]:
    """A docstring in Google's form as Markdown."""
    section = ""
    for line in inspect.cleandoc(docstring).splitlines():
        line = re.sub(r":(?:class|func|mod|meth|data):`~?([^`]*)`", r"`\1`", line)
        line = line.replace("``", "`")
        heading = line.strip().rstrip(":")
        if line.endswith(":") and not line.startswith(" ") and heading in _HEADINGS:
            section = heading
            yield from (f"**{heading}**", "")
        elif section and re.match(r"    [\w*`., ]+: ", line) and section != "Returns":
            name, _, text = line.strip().partition(": ")
            yield f"- `{name.replace('*', '')}`: {text}"
        elif section and section != "Returns" and line.strip():
            yield f"  {line.strip()}"
        else:
            yield line.strip() if section else line


def entry(name: str, value: Any, depth: int = 3) -> Iterator[str]:
    """One class or function."""
    yield from (f"{'#' * depth} `{name}`", "")
    shown = not (inspect.isclass(value) and issubclass(value, BaseException))
    if shown and not hasattr(value, "__members__"):
        yield from ("```python", signature(name, value), "```", "")
    yield from prose(value.__doc__ or "")
    yield ""
    for method in METHODS.get(name, ()):
        yield from entry(f"{name}.{method}", getattr(value, method), depth + 1)


def page() -> str:
    """The page's text."""
    import importlib

    lines = [
        "# API",
        "",
        "Made from the docstrings by `python docs/make_api.py`; tests compare the two.",
        "",
    ]
    for module, names in SECTIONS.items():
        lines += [f"## {module}", ""]
        for name in names:
            lines += entry(name, getattr(importlib.import_module(module), name))
    text = "\n".join(line.rstrip() for line in lines)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def main() -> int:
    """Write or compare; the exit code."""
    parser = argparse.ArgumentParser(description="Writes docs/api.md from the docstrings.")
    parser.add_argument("--check", action="store_true", help="only compare")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if PAGE.read_text(encoding="utf-8") == page():
        return 0
    print(
        "docs/api.md is not what the docstrings say: run python docs/make_api.py", file=sys.stderr
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
