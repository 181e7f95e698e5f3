"""The phases of a step before its update: what it consists of, in which order.

| phase | what it does | who has it |
|---|---|---|
| measure | statistics by a pass of their own; no weight gradient is in it | LNGD |
| capture | backward pass that also collects statistics | all others but Muon, SOAP |
| refresh | derive inverses; again, with more damping, those that failed | all but Eva, FNGD, Muon |
| recapture | the backward pass again, which measures in the new basis | EKFAC |
| plain | backward pass of the plain network | all |

Then comes the update: the stages of ``optim/base.py``, or the undoing of a bad batch.

A method says which phases it has by ``measures_first`` and ``remeasures``; what is due says the
rest. A ``TrainStep`` runs one compiled graph after the other; ``construct`` has the same order with
lazy branches, in one graph.
"""

from __future__ import annotations

MEASURE, CAPTURE, REFRESH = "measure", "capture", "refresh"
RECAPTURE, PLAIN = "recapture", "plain"

NEEDS_GOOD = (REFRESH, RECAPTURE)
"""Phases that are left out where the statistics before them were not finite."""


def phases(
    collects: bool, refreshes: bool, measures_first: bool = False, remeasures: bool = False
) -> tuple[str, ...]:
    """The phases of one step.

    Args:
        collects: whether statistics are due.
        refreshes: whether what is derived from them is due.
        measures_first: whether they come from a pass before the step.
        remeasures: whether a refresh calls for new statistics of the same batch.

    Returns:
        Names, in order. The last backward pass before the update has the step's gradients.
    """
    found: list[str] = []
    if collects:
        found.append(MEASURE if measures_first else CAPTURE)
    if refreshes:
        found.append(REFRESH)
        if remeasures:
            found.append(RECAPTURE)
    if CAPTURE not in found and RECAPTURE not in found:
        found.append(PLAIN)
    return tuple(found)
