"""What is set before anything is compiled."""

from __future__ import annotations

import mindspore as ms
import pytest

from mindspore_thor.runtime import CALL_DEPTH, prepare_target


@pytest.mark.parametrize(("own", "expected"), [(1000, [CALL_DEPTH]), (1500, [])])
def test_calls_may_nest_deeper_unless_the_user_has_said(
    own: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """1000 is MindSpore's default; FNGD's backward pass of ResNet-50 is nested deeper."""
    asked: list[int] = []
    monkeypatch.setattr(ms, "set_recursion_limit", asked.append)
    before = ms.get_context("max_call_depth")
    ms.set_context(max_call_depth=own)
    try:
        prepare_target()
    finally:
        ms.set_context(max_call_depth=before)
    assert asked == expected
