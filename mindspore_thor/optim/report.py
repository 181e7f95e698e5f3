"""The coverage table: which layers take part, and what became of their curvature."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mindspore_thor.curvature.state import LayerState
from mindspore_thor.layers.coverage import LayerRow


class LayerReport(list[LayerRow]):
    """Rows of type :class:`~mindspore_thor.layers.coverage.LayerRow`; ``str()`` aligns them."""

    def __str__(self) -> str:
        head = ("layer", "type", "covered", "accepted", "kept", "stopped", "reason")
        body = [
            (
                row.layer,
                row.type,
                "yes" if row.covered else "no",
                str(row.accepted) if row.covered else "-",
                str(row.kept) if row.covered else "-",
                ("yes" if row.stopped else "no") if row.covered else "-",
                row.reason,
            )
            for row in self
        ]
        widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip()
            for line in [head, *body]
        ]
        lines.insert(1, "  ".join("-" * w for w in widths))
        covered = sum(row.covered for row in self)
        lines.append(f"{covered} of {len(self)} weight-bearing layers are preconditioned")
        return "\n".join(lines)


def report_of(
    rows: Iterable[LayerRow],
    states: Mapping[str, LayerState],
    elsewhere: Mapping[str, str],
    begun: bool,
) -> LayerReport:
    """The table of the layers as they are now.

    Args:
        rows: one for every weight-bearing layer, as they were found.
        states: what is stored of the covered layers.
        elsewhere: why some of these have their plain gradient all the same.
        begun: whether a step was made.
    """
    report = LayerReport()
    for row in rows:
        state = states.get(row.layer)
        if state is None or row.layer in elsewhere:
            reason = elsewhere.get(row.layer, row.reason)
            report.append(LayerRow(row.layer, row.type, False, reason))
            continue
        counts = state.counts.asnumpy()
        stopped = int(state.active.asnumpy()) == 0
        # Nobody has statistics before the first step; a layer without any is a plain one then.
        waits = begun and not state.group.ready_layers()[state.layer]
        reason = "no statistics yet: plain gradient" if waits else row.reason
        accepted, kept = int(counts[0]), int(counts[1])
        report.append(LayerRow(row.layer, row.type, not waits, reason, accepted, kept, stopped))
    return report
