"""The coverage table: which layers take part, and what became of their curvature."""

from __future__ import annotations

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
