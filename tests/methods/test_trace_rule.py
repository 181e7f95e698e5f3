"""The trace rule (methods.md 1.2): check T4, its variants, and what a stopped layer does."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from oracle.curvature import fisher_trace
from oracle.nets import batches, mlp
from oracle.training import cross_entropy

from mindspore_thor import THOR, TrainStep, UserError
from mindspore_thor.methods.trace_rule import TraceRule


def scalar(value: float) -> Tensor:
    return Tensor(np.float32(value))


class Refresh(nn.Cell):
    def __init__(self, optimizer: THOR) -> None:
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer

    def construct(self) -> Tensor:
        self.optimizer.refresh()
        return self.optimizer.step_number()


class Layer:
    """One Dense layer whose factors are set by hand so that T trA trG is a chosen number."""

    def __init__(self, *thresholds: float, **options) -> None:
        self.optimizer = THOR(
            nn.Dense(2, 2, has_bias=False),
            0.1,
            trace_thresholds=thresholds,
            trace_include_damping=False,
            **options,
        )
        self.curvature = self.optimizer.curvatures[0]
        self.refresh = Refresh(self.optimizer)

    def see(self, trace: float) -> str:
        """Offer a candidate with that trace; what the rule made of it."""
        # A = diag(trace, 0), G = diag(1, 0), then uses, T and N
        self.curvature.statistics.set_data(
            Tensor(np.array([trace, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1], np.float32))
        )
        before, inverse = self.row(), self.inverse()
        self.refresh()
        after = self.row()
        if after.stopped and after.kept == before.kept:
            outcome = "still stopped"
        else:
            outcome = (
                "stop"
                if after.stopped
                else "accept"
                if after.accepted > before.accepted
                else "keep"
            )
        moved = (self.inverse() != inverse).any()
        assert moved == (outcome == "accept"), "only an accepted candidate may touch the inverse"
        assert after.accepted - before.accepted == (outcome == "accept")
        return outcome

    def row(self):
        return self.optimizer.layer_report()[0]

    def inverse(self) -> np.ndarray:
        return self.curvature.inverse_a.asnumpy().copy()


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def test_t4_states(mode) -> None:
    ms.set_context(mode=mode)
    layer = Layer(0.01, 0.001)
    outcomes = [layer.see(t) for t in (100, 100.5, 101.2, 101.25, 500)]
    assert outcomes == ["accept", "keep", "accept", "stop", "still stopped"]


@pytest.mark.parametrize(
    ("thresholds", "traces", "expected"),
    [
        # Both boundaries keep; the numbers are exact in binary.
        ((0.25, 0.125), (1, 1.25), ["accept", "keep"]),
        ((0.25, 0.125), (1, 1.125), ["accept", "keep"]),
        ((0.25, 0.125), (1, 0.75, 0.875), ["accept", "keep", "keep"]),
        # w2 = 0 makes the stop interval empty.
        (
            (0.01, 0.0),
            (100, 100.5, 101.2, 101.25, 101.2),
            ["accept", "keep", "accept", "keep", "keep"],
        ),
        # THOR_NT: every change is accepted, none keeps.
        ((0.0, 0.0), (100, 100, 100.001, 100.001), ["accept", "keep", "accept", "keep"]),
        # Slow drift adds up against the last accepted trace until it crosses w1.
        ((0.01, 0.001), (100, 100.4, 100.8, 101.2), ["accept", "keep", "keep", "accept"]),
    ],
)
def test_thresholds(thresholds, traces, expected) -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    layer = Layer(*thresholds)
    assert [layer.see(t) for t in traces] == expected


def test_against_the_previous_candidate_drift_never_adds_up() -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    layer = Layer(0.01, 0.001, trace_baseline="previous")
    outcomes = [layer.see(t) for t in (100, 100.4, 100.8, 101.2, 102.5)]
    assert outcomes == ["accept", "keep", "keep", "keep", "accept"]


@pytest.mark.parametrize("form", ["literal", "product"])
@pytest.mark.parametrize("include", [True, False])
def test_trace_of_the_fisher_block(form, include) -> None:
    """tr(F + lam I) of a grouped convolution, against the oracle's sum over groups."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    rng = np.random.default_rng(0)
    a = rng.standard_normal((2, 4, 9))
    g = rng.standard_normal((2, 3, 9))
    a, g = a @ a.transpose(0, 2, 1), g @ g.transpose(0, 2, 1)
    rule = TraceRule((0.01, 0.0), include, form)
    # Two layers: the second one's A is twice the first one's.
    layers = [np.trace(m, axis1=1, axis2=2).astype(np.float32) for m in (a, g)]
    traces = [Tensor(np.stack([layers[0], 2 * layers[0]])), Tensor(np.stack([layers[1]] * 2))]
    positions = Tensor(np.array([5, 5], np.float32))
    got = rule.total(*traces, positions, scalar(0.3), 4, 3).asnumpy()
    expected = fisher_trace(a, g, 5.0, 0.3, form, include)
    twice = fisher_trace(2 * a, g, 5.0, 0.3, form, include)
    assert got.tolist() == pytest.approx([expected, twice], rel=1e-5)
    if form == "literal" and include:
        dense = sum(np.trace(5 * np.kron(a[k], g[k]) + 0.3 * np.eye(12)) for k in range(2))
        assert expected == pytest.approx(dense)


def test_a_decaying_damping_alone_can_move_the_trace() -> None:
    """With lam in the trace (the paper's Eq. 8) a fall of lam counts; without it, it does not."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    for include, expected in ((True, [1, 2]), (False, [1, 1])):
        opt = THOR(
            nn.Dense(2, 2, has_bias=False),
            0.1,
            damping=nn.ExponentialDecayLR(1.0, 0.5, 1),
            trace_include_damping=include,
        )
        curvature = opt.curvatures[0]
        curvature.statistics.set_data(
            Tensor(np.array([0.1, 0, 0, 0, 0.1, 0, 0, 0, 1, 1, 1], np.float32))
        )
        accepted = []
        for _ in range(2):
            opt.refresh()
            accepted.append(opt.layer_report()[0].accepted)
            opt.advance()
        assert accepted == expected


def test_a_stopped_layer_changes_no_more() -> None:
    """Its statistics, inverse and counters stay as they are while the net goes on training."""
    net, x, labels = mlp()
    opt = THOR(net, 0.1, trace_thresholds=(1e9, 1e8), split_dim=4)  # everything stops at once
    step = TrainStep(net, cross_entropy(), opt)
    data = [(Tensor(a), Tensor(b)) for a, b in batches(x, labels, 4)]
    step(*data[0])
    step(*data[1])

    def state() -> list[np.ndarray]:
        return [p.asnumpy().copy() for g in opt.groups for p in g.get_parameters()]

    stopped, weights = state(), net[0].weight.asnumpy().copy()
    assert [(r.accepted, r.kept, r.stopped) for r in opt.layer_report()] == [(1, 1, True)] * 2
    step(*data[2])
    step(*data[3])
    assert all(np.array_equal(a, b) for a, b in zip(stopped, state()))
    assert (net[0].weight.asnumpy() != weights).any()
    assert np.isfinite(net[0].weight.asnumpy()).all()


@pytest.mark.parametrize(
    "thresholds", [(0.001, 0.01), (-0.1, -0.2), (0.1, -0.1), (0.1,), (float("nan"), 0.0)]
)
def test_thresholds_in_the_wrong_order_are_refused(thresholds) -> None:
    with pytest.raises(UserError, match="trace_thresholds"):
        THOR(nn.Dense(2, 2), 0.1, trace_thresholds=thresholds)
