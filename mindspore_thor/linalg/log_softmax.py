"""Logarithms of probabilities, without MindSpore's own operator for them.

On CPU ``ops.LogSoftmax`` of MindSpore 2.10 reads memory that nobody has written: where that is not
zero by chance, its results are wrong.
"""

from __future__ import annotations

from mindspore import Tensor, ops

_LARGEST, _SUM = ops.ReduceMax(keep_dims=True), ops.ReduceSum(keep_dims=True)


def log_softmax(scores: Tensor) -> Tensor:
    """X - log sum exp x over the last axis.

    Args:
        scores: float32 [..., V].

    Returns:
        float32 [..., V].
    """
    shifted = scores - ops.stop_gradient(_LARGEST(scores, -1))
    return shifted - ops.log(_SUM(ops.exp(shifted), -1))
