"""What device the graph is compiled for; only this room asks."""

from __future__ import annotations

import mindspore as ms
from mindspore import ops


@ops.constexpr
def on_ascend() -> bool:
    """Whether the device target is Ascend; folded to a constant when the graph is compiled."""
    return bool(ms.get_context("device_target") == "Ascend")


@ops.constexpr
def on_cpu() -> bool:
    """Whether the device target is the CPU; folded to a constant when the graph is compiled."""
    return bool(ms.get_context("device_target") == "CPU")
