"""The phases of a step, from what is due and what a method declares."""

from __future__ import annotations

import pytest

from mindspore_thor.step.plan import phases


@pytest.mark.parametrize(
    ("collects", "refreshes", "usual", "first", "again"),
    [
        (0, 0, "plain", "plain", "plain"),
        (1, 0, "capture", "measure plain", "capture"),
        (0, 1, "refresh plain", "refresh plain", "refresh recapture"),
        (1, 1, "capture refresh", "measure refresh plain", "capture refresh recapture"),
    ],
)
def test_the_order(collects, refreshes, usual, first, again) -> None:
    due = bool(collects), bool(refreshes)
    assert " ".join(phases(*due)) == usual
    assert " ".join(phases(*due, measures_first=True)) == first
    assert " ".join(phases(*due, remeasures=True)) == again
