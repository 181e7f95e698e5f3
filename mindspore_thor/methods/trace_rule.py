"""THOR's trace rule: refresh, keep or stop a layer by the change of its trace (Eqs. 8-9)."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn

from mindspore_thor.errors import UserError, quoted
from mindspore_thor.graph.operators import (
    ABS,
    ADD,
    AND,
    CAST,
    DIV,
    GREATER,
    IS_FINITE,
    LESS,
    MUL,
    NOT,
    OR,
    SUB,
)
from mindspore_thor.linalg.sums import SUM

_MOST = 1e30  # an infinite threshold would never accept again, one above float32 neither


# tr(F + lam I) of every layer, [L], from traces per map, [L, maps], T, [L], and the damping.


def _without_damping(
    trace_a: Tensor, trace_g: Tensor, positions: Tensor, damping: Tensor, d_in: int, d_out: int
) -> Tensor:
    return MUL(positions, SUM(MUL(trace_a, trace_g), 1))


def _literal(
    trace_a: Tensor, trace_g: Tensor, positions: Tensor, damping: Tensor, d_in: int, d_out: int
) -> Tensor:
    product = MUL(positions, SUM(MUL(trace_a, trace_g), 1))
    return ADD(product, MUL(damping, d_in * d_out * trace_a.shape[1]))


def _product(
    trace_a: Tensor, trace_g: Tensor, positions: Tensor, damping: Tensor, d_in: int, d_out: int
) -> Tensor:
    trace_a = ADD(trace_a, MUL(damping, d_in))
    trace_g = ADD(trace_g, MUL(damping, d_out))
    return MUL(positions, SUM(MUL(trace_a, trace_g), 1))


class TraceRule(nn.Cell):
    """Delta = | |tr F^k| - |tr F^base| | / |tr F^base| against two thresholds.

    Delta > w1 accepts the candidate factors, w2 <= Delta <= w1 keeps the previous inverse, and
    Delta < w2 stops the layer for ever. The first candidate is always accepted.

    The baseline is the last ACCEPTED trace, because a kept step sets F^k := F^(k-1); slow drift
    therefore adds up until it crosses w1.

    Args:
        thresholds: (w1, w2) with w1 >= w2 >= 0; (0.01, 0) is THOR, (0.01, 0.001) THOR_stop,
            (0, 0) THOR_NT.
        include_damping: count lam * d_in * d_out in the trace, as the paper writes it. With a small
            Fisher the trace then measures mostly the decay of lam.
        form: ``"literal"`` for T trA trG + lam d_in d_out, ``"product"`` for
            T (trA + lam d_in)(trG + lam d_out).
        against_previous: compare with the previous candidate instead of the last accepted trace.

    Raises:
        UserError: for thresholds that are negative or in the wrong order, or an unknown form.
    """

    def __init__(
        self,
        thresholds: tuple[float, float],
        include_damping: bool = True,
        form: str = "literal",
        against_previous: bool = False,
    ) -> None:
        super().__init__()
        sound = isinstance(thresholds, (tuple, list)) and len(thresholds) == 2
        sound = sound and all(type(t) in (int, float) for t in thresholds)
        if not sound or not _MOST >= thresholds[0] >= thresholds[1] >= 0:
            raise UserError(
                f"trace_thresholds={quoted(thresholds)}: give (w1, w2) with w1 >= w2 >= 0, "
                "for example (0.01, 0.001)"
            )
        if form not in ("literal", "product"):
            raise UserError(f"trace_form={quoted(form)}: use 'literal' or 'product'")
        self.w1, self.w2 = float(thresholds[0]), float(thresholds[1])
        # tr(F + lam I). No question in every group: each would cost the compiler two functions.
        if not include_damping:
            self.total = _without_damping
        else:
            self.total = _literal if form == "literal" else _product
        self.against_previous = against_previous

    def decide(self, candidate: Tensor, baseline: Tensor) -> Tensor:
        """int32 [L]: 1 accept, 0 keep, -1 stop.

        Args:
            candidate: traces of the candidate factors, [L].
            baseline: traces to compare with, [L]; negative where there is none yet.
        """
        size = ABS(baseline)
        change = DIV(ABS(SUB(ABS(candidate), size)), size)
        accept = OR(LESS(baseline, 0.0), GREATER(change, self.w1))
        # A non-finite trace must reach the inversion, where it is seen to fail and counted.
        accept = OR(accept, NOT(IS_FINITE(change)))
        stop = AND(NOT(accept), LESS(change, self.w2))
        return SUB(CAST(accept, ms.int32), CAST(stop, ms.int32))
