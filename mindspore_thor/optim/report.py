"""The coverage table: which rule moves each parameter, and what became of the curvature."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from mindspore_thor.curvature.state import LayerState
from mindspore_thor.layers.coverage import LayerRow

PLAIN = "plain"
_PLAIN_GRADIENT = "plain gradient"  # in reasons


class LayerReport(list[LayerRow]):
    """Rows of type :class:`~mindspore_thor.layers.coverage.LayerRow`; ``str()`` sums them up.

    Attributes:
        method: name of the method.
        rules: name of every parameter that the optimizer moves -> the method's name, "plain" (the
            gradient with momentum and rate) or "AdamW".
    """

    def __init__(
        self,
        rows: Iterable[LayerRow] = (),
        method: str = "",
        rules: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(rows)
        self.method = method
        self.rules = dict(rules or {})

    def __str__(self) -> str:
        """The summary, and how to see more."""
        return f"{self.summary()}\nlayer by layer: print(optimizer.layer_report().table())"

    def summary(self) -> str:
        """One line for all layers of a type that fare alike."""
        alike: dict[tuple[str, str, str], list[LayerRow]] = {}
        for row in self:
            alike.setdefault((row.type, row.rule, row.reason), []).append(row)
        lines = [
            (str(len(rows)), kind, rule, reason + (f" ({rows[0].layer})" if len(rows) == 1 else ""))
            for (kind, rule, reason), rows in alike.items()
        ]
        covered = sum(row.covered for row in self)
        title = f"{self.method} preconditions {covered} of {len(self)} layers with weights"
        return "\n".join([title, *(f"  {line}" for line in _aligned(lines, (0,)))])

    def table(self) -> str:
        """One line for every layer."""
        head = ("layer", "type", "moved by", "accepted", "kept", "stopped", "reason")
        body = [
            (
                row.layer,
                row.type,
                row.rule,
                str(row.accepted) if row.covered and row.inverts else "-",
                str(row.kept) if row.covered and row.inverts else "-",
                ("yes" if row.stopped else "no") if row.covered and row.inverts else "-",
                row.reason,
            )
            for row in self
        ]
        lines = _aligned([head, *body])
        widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
        lines.insert(1, "  ".join("-" * w for w in widths))
        return "\n".join(lines)


def _aligned(lines: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines)]
    return [
        "  ".join(
            cell.rjust(w) if i in right else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    ]


def _rule_of(names: Sequence[str], rules: Mapping[str, str]) -> str:
    """The rules of one layer's parameters, as few words as say it."""
    found = {name.rsplit(".", 1)[-1]: rules.get(name, "not by this") for name in names}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return ", ".join(f"{name} {rule}" for name, rule in found.items())


def report_of(
    rows: Iterable[LayerRow],
    states: Mapping[str, LayerState],
    elsewhere: Mapping[str, str],
    begun: bool,
    method: str,
    rules: Mapping[str, str],
    rest: str,
) -> LayerReport:
    """The table of the layers as they are now.

    Args:
        rows: one for every weight-bearing layer, as they were found.
        states: what is stored of the covered layers.
        elsewhere: why some of these are not preconditioned all the same.
        begun: whether a step was made.
        method: its name.
        rules: parameter -> what moves it where all covered layers have statistics.
        rest: what moves the parameters of layers that are not covered.
    """
    now = dict(rules)
    report = LayerReport((), method, now)
    for row in rows:
        state = states.get(row.layer)
        if state is None or row.layer in elsewhere:
            reason = elsewhere.get(row.layer, row.reason)
            if rest != PLAIN:
                reason = reason.replace(_PLAIN_GRADIENT, rest)
            rule = _rule_of(row.parameters, now)
            report.append(replace(row, covered=False, reason=reason, rule=rule))
            continue
        counts = state.counts.asnumpy()
        stopped = int(state.active.asnumpy()) == 0
        # Nobody has statistics before the first step; a layer without any is a plain one then.
        waits = begun and not state.group.ready_layers()[state.layer]
        if waits:
            now.update({n: PLAIN for n in row.parameters if rules.get(n) == method})
            report.rules.update(now)
        reason = "no statistics yet: plain gradient" if waits else row.reason
        report.append(
            replace(
                row,
                covered=not waits,
                reason=reason,
                accepted=int(counts[0]),
                kept=int(counts[1]),
                stopped=stopped,
                inverts=bool(state.group.solver) or state.group.direct,
                rule=_rule_of(row.parameters, now),
            )
        )
    return report
