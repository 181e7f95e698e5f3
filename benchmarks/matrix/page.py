"""The tables in docs/mindcv.md, made of the stored rows alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.tables import table
from benchmarks.matrix.nets import METHODS, NETS, RATE
from benchmarks.matrix.rows import path_of
from benchmarks.report import replaced
from mindspore_thor.errors import UserError

NAME = "mindcv_matrix"
PAGE = Path("docs") / "mindcv.md"
NOTHING = "No rows are stored yet."

Rows = dict[tuple[str, str], dict[str, Any]]


def load(folder: Path) -> Rows:
    """Read what is stored.

    Args:
        folder: Of the rows.

    Returns:
        (net, method) -> its row, in the order of nets and methods.
    """
    found: Rows = {}
    for net in NETS:
        for method in METHODS:
            path = path_of(folder, net, method)
            if path.is_file():
                found[net, method] = json.loads(path.read_text(encoding="utf-8"))
    return found


def compile_seconds(row: Mapping[str, Any]) -> float:
    """Wall seconds of all graphs' compilation.

    Args:
        row: Of a net that was trained.
    """
    return float(sum(compiled for compiled, _ in row["graphs"].values()))


def outcome(row: Mapping[str, Any] | None) -> str:
    """What became of a row, as a cell.

    Args:
        row: Stored, or None.
    """
    if row is None:
        return "not run"
    if "limit" in row:
        return f"not done in {row['limit']} CPU s"
    if "failed" in row:
        return "failed"
    first, last = row["losses"][0], row["losses"][-1]
    problems = [] if last < first else ["**not fallen**"]
    problems += [] if row["checkpoint"] else ["**checkpoint does not load**"]
    problems += [f"**{row['skipped']} skipped**"] if row["skipped"] else []
    cpu = row["seconds"][-1][1]
    text = f"{cpu:.0f} ({compile_seconds(row):.0f}); {first:.2f} to {last:.2f}"
    problems += [f"rate {row['rate']:g}"] if row["rate"] != RATE else []
    return ", ".join([text, *problems])


def _trained(row: Mapping[str, Any] | None) -> bool:
    return row is not None and "losses" in row


def _share(row: Mapping[str, Any] | None) -> str:
    if row is None or not _trained(row):
        return "-"
    return f"{100 * row['weights_moved'] / row['weights']:.1f}"


def _counted(types: Mapping[str, list[int]], *, covered: bool) -> str:
    """``Conv2d 26, Dense 2 of 3`` of the types with covered layers, or of those without."""
    words = []
    for kind, (moved, count) in types.items():
        if bool(moved) is covered:
            words.append(f"{kind} {count}" if moved in (0, count) else f"{kind} {moved} of {count}")
    return ", ".join(words) or "-"


def section(rows: Rows) -> str:
    """Markdown of all rows.

    Args:
        rows: See :func:`load`.
    """
    if not rows:
        return f"{NOTHING}\n"
    nets = [net for net in NETS if any((net, method) in rows for method in METHODS)]
    titles = [method.upper() for method in METHODS]
    done, layers = [], []
    for net in nets:
        known = NETS[net]
        mine = {method: rows.get((net, method)) for method in METHODS}
        size = f"{known.size}, {known.batch}"
        done.append([known.family, net, size, *(outcome(row) for row in mine.values())])
        seen = next((row for row in mine.values() if row is not None and _trained(row)), None)
        if seen is not None:
            kinds = [_counted(seen["types"], covered=covered) for covered in (True, False)]
            millions = f"{seen['weights'] / 1e6:.1f}"
            layers.append([net, *kinds, millions, *(_share(row) for row in mine.values())])
    good = [row for row in rows.values() if _trained(row)]
    fallen = sum(row["losses"][-1] < row["losses"][0] for row in good)
    loads = sum(bool(row["checkpoint"]) for row in good)
    families = len({NETS[net].family for net, _ in rows if _trained(rows[net, _])})
    lines = [
        f"{len(rows)} rows; {len(good)} were trained, of {families} families: the loss fell in "
        f"{fallen}, the checkpoint loads in {loads}.\n",
        table(["family", "net", "pixels, batch", *titles], done),
        "",
        "What is moved, as the first of the methods in a row sees it (THOR, where it was run):\n",
        table(
            ["net", "by the method", "by the plain gradient", "weights, millions"]
            + [f"{title}, %" for title in titles],
            layers,
        ),
        "",
        *_reasons(rows),
    ]
    waiting = [net for net in NETS if net not in nets]
    if waiting:
        lines += [f"Not run yet: {', '.join(waiting)}.", ""]
    return "\n".join(lines)


def _reasons(rows: Rows) -> list[str]:
    """Why rows failed, and why layers are left out."""
    lines = [
        f"- `{net}`, {method.upper()}: {row['failed']}"
        for (net, method), row in rows.items()
        if "failed" in row
    ]
    lines = ["Failed:\n", *lines, ""] if lines else []
    why: dict[str, list[str]] = {}
    for (net, _), row in rows.items():
        for full in row.get("reasons", {}):
            kind, _, words = full.partition(": ")
            reason = words if words.startswith(f"{kind}: ") else full
            if not any(word in reason for word in ("BatchNorm", "LayerNorm", "GroupNorm")):
                nets = why.setdefault(reason, [])
                nets += [] if net in nets else [net]
    if why:
        lines += ["Layers other than norms that take the plain gradient:\n"]
        lines += [f"- {reason} ({', '.join(nets)})" for reason, nets in why.items()]
        lines += [""]
    return lines


def report(root: Path, folder: Path, *, check: bool) -> Path | None:
    """Bring the page up to date.

    Args:
        root: Folder of the repository.
        folder: Of the stored rows.
        check: Whether to leave everything as it is.

    Returns:
        The page, where it is, or was, out of date.

    Raises:
        UserError: If the page has no markers for the tables.
    """
    page = root / PAGE
    text = page.read_text(encoding="utf-8")
    new = replaced(text, NAME, section(load(folder)))
    if new is None:
        raise UserError(
            f"{page}: has no lines '<!-- results: {NAME} -->' and '<!-- end of results: {NAME} -->'"
        )
    if new == text:
        return None
    if not check:
        page.write_text(new, encoding="utf-8")
    return page
