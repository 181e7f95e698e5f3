"""Write the tables and figures of all studies into ``models/<family>/README.md``.

    python benchmarks/report.py [--check]

Everything is made of the logs in ``benchmarks/results/``. A README holds, for each of its studies,
the lines ``<!-- results: NAME -->`` and ``<!-- end of results: NAME -->``; what stands between them
is replaced. What the workloads of the protocol showed together stands in ``docs/results.md``,
between the markers of ``protocol``, and a line for each in the package's README. ``--check``
changes nothing and fails where a page is out of date.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import benchmarks.needs  # noqa: F401  (first, before what it asks for)

# isort: split
from benchmarks.harness.figures import draw
from benchmarks.harness.profile import draw_protocol
from benchmarks.harness.protocol_page import protocol_section, summary
from benchmarks.harness.spec import RESULTS, ROOT, STUDIES, Study, load_study
from benchmarks.harness.tables import section
from mindspore_thor.command_line import Parser, one_line_errors
from mindspore_thor.errors import UserError
from mindspore_thor.program import run_program


def replaced(text: str, name: str, content: str) -> str | None:
    """Put results between their markers.

    Args:
        text: A page.
        name: Of the study.
        content: Markdown.

    Returns:
        The new text, or None where the page has no such markers.
    """
    begin, end = f"<!-- results: {name} -->\n", f"<!-- end of results: {name} -->\n"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        return None
    return f"{before}{begin}\n{content}\n{end}{after}"


def report(root: Path, results: Path, studies: Sequence[Study], *, check: bool) -> list[Path]:
    """Bring the READMEs and figures up to date.

    Args:
        root: Folder that holds ``models/``.
        results: Folder with one folder of logs per study.
        studies: The studies.
        check: Whether to leave everything as it is.

    Returns:
        The pages that are, or were, out of date.

    Raises:
        UserError: If a study has stored logs, but its README has no markers for it.
    """
    stale = _report_protocol(root, results, studies, check=check)
    for study in studies:
        if study.baselines:
            continue
        readme = root / "models" / study.family / "README.md"
        text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
        new = replaced(text, study.name, section(study, results / study.name))
        if new is None:
            if (results / study.name).is_dir():
                raise UserError(
                    f"{readme}: has no lines '<!-- results: {study.name} -->' and "
                    f"'<!-- end of results: {study.name} -->'; add them where the results belong"
                )
            continue
        if new != text:
            stale.append(readme)
            if not check:
                readme.write_text(new, encoding="utf-8")
        if not check:
            draw(study, results / study.name, readme.parent)
    return stale


def _report_protocol(
    root: Path, results: Path, studies: Sequence[Study], *, check: bool
) -> list[Path]:
    workloads = [study for study in studies if study.baselines]
    stale = []
    for page, content in (
        (root / "docs" / "results.md", protocol_section),
        (root / "README.md", summary),
    ):
        if not workloads or not page.is_file():
            continue
        text = page.read_text(encoding="utf-8")
        new = replaced(text, "protocol", content(workloads, results))
        if new is None:
            raise UserError(
                f"{page}: has no lines '<!-- results: protocol -->' and '<!-- end of results: "
                "protocol -->'; add them where the results belong"
            )
        if new != text:
            stale.append(page)
            if not check:
                page.write_text(new, encoding="utf-8")
    if not check and (root / "docs" / "results.md").is_file():
        draw_protocol(workloads, results, root / "docs")
    return stale


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the tables.

    Args:
        argv: Arguments without the program's name; None for the process's own.

    Returns:
        Exit code: 0 up to date, 1 out of date (``--check``), 2 wrong input.
    """
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say what is out of date")
    check = parser.parse_args(argv).check
    studies = [load_study(path) for path in sorted(STUDIES.glob("*.yaml"))]
    stale = report(ROOT, RESULTS, studies, check=check)
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'out of date' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    run_program(main, holds_signals=True)
