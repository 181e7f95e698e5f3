"""The one place that tells second-order methods which tokens are real.

A real token can have a gradient of exactly zero: in the hidden layer of the feed-forward net where
all its ReLUs are off, and in the query of a target's first token, which sees only itself, so that
its softmax is constant. Whoever takes rows without gradient for padding needs to be told.
"""

from __future__ import annotations

from mindspore import Tensor


def mark_tokens(x: Tensor, mask: Tensor) -> Tensor:
    """Return ``x`` [N, S, d], whose real tokens are those of ``mask``, bool [N, S]."""
    return x
