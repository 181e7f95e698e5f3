"""The pages: generated ones are current, what they point to is there, README stays short."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest
import yaml
from places import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def _headings(text: str) -> list[str]:
    return [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]


def test_the_api_page_is_what_the_docstrings_say() -> None:
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.page()
    assert module.PAGE.read_text() == page, "run python docs/make_api.py"
    for name in ("### `THOR`", "- `grafting`: ", "### `TrainStep`", "#### `LayerReport.table`"):
        assert name in page


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = page if not path else (page.parent / path)
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in map(_anchor, _headings(target.read_text())), f"{page.name}: {link}"


def test_the_sections_that_docstrings_cite_are_there() -> None:
    sections = {
        heading.split(" ")[0].rstrip(".")
        for heading in _headings((ROOT / "docs" / "methods.md").read_text())
    }
    cited = {
        number
        for path in (ROOT / "mindspore_thor").rglob("*.py")
        for number in re.findall(r"methods\s+section ([\d.]*\d)", path.read_text())
    }
    assert len(cited) >= 4 and cited <= sections


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 1500


def test_the_recommended_call_is_the_default_that_was_measured() -> None:
    block = re.search(r"^optimizer = (THOR\(.*?^\))", (ROOT / "README.md").read_text(), re.S | re.M)
    assert block is not None
    call = ast.parse(block[1], mode="eval").body
    assert isinstance(call, ast.Call)
    shown = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    thor = yaml.safe_load((ROOT / "benchmarks" / "protocol.yaml").read_text())["methods"]["thor"]
    measured = {**thor["settings"]["optimizer"]}
    assert measured.pop("name") == "thor"
    assert {**shown, "rest_betas": list(shown["rest_betas"])} == measured
    # YAML 1.1 takes 1e-2 for a text.
    assert ast.literal_eval(call.args[1]) == float(thor["candidates"][0]["learning_rate.peak"])
