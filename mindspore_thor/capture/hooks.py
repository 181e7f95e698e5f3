"""The cell that hands statistics out of the backward pass.

A statistic is the "gradient" of a probe parameter: the forward pass ignores the probe, and a custom
``bprop`` returns the statistic in its place. With the probe among the weights of a
``GradOperation`` the statistic comes out beside the gradients, so reducers and overflow checks
treat it like one; without it the compiler prunes the whole capture and the plain network is left.
"""

from __future__ import annotations

from typing import Any, Callable

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindspore_thor.capture.plain import exports, refuse_rewriting, same
from mindspore_thor.capture.unscaling import BY_PARAMETER, unscaling
from mindspore_thor.graph.kind import FOREIGN, OWN, PLAIN, GraphKind
from mindspore_thor.graph.once import Once
from mindspore_thor.graph.operators import CAST, MUL, ZEROS_LIKE
from mindspore_thor.graph.slices import part
from mindspore_thor.layers.rows import Rows

GUARD = 2.0**-50
"""Factor on statistics on their way through a training cell that is not ours.

Such a cell may clip the gradients by their global norm, among which the statistics travel: like
this they are nothing beside the gradients, and a power of two loses nothing on the way.
"""

ONE = Tensor(1.0, ms.float32)
_ONCE = Tensor(1, ms.int32)


class Capture(nn.Cell):
    """One layer's linear map with a backward pass that also computes its statistics.

    Args:
        rows: the layer's geometry; ``rows.apply(x, weight)`` is the map.
        rule: cell ``(x, out, dout, state) -> statistics``, a float32 vector shaped like the probe.
        size: length of that vector.
        inverse_scale: what undoes the loss scale on ``dout`` before the rule sees it.
        graph: what the graph being compiled is for.
        stops: whether a layer may stop collecting on its own.
    """

    def __init__(
        self,
        rows: Rows,
        rule: nn.Cell,
        size: int,
        inverse_scale: float,
        graph: GraphKind,
        stops: bool,
    ) -> None:
        super().__init__(auto_prefix=False)
        # In a graph of its own, which runs in the steps that collect and in no other, there is no
        # branch, but for layers that stop on their own.
        self.always = "" if stops else OWN
        self.rows = rows
        self.rule = rule
        self.graph = graph
        self.unscaled = self.given = unscaling(inverse_scale)
        self.size = size
        self.vjp = ops.GradOperation(get_all=True, sens_param=True)
        self.once = Once()

    def scale_by(self, dynamic: bool) -> None:
        """Say which number undoes the loss scale."""
        self.unscaled = BY_PARAMETER if dynamic else self.given

    def run(self, x: Tensor, weight: Tensor) -> Tensor:
        """The plain map; a method, because GradOperation differentiates those exactly."""
        return self.rows.apply(x, weight)

    def construct(
        self, x: Tensor, weight: Tensor, flag: Tensor, state: Any, probe: Tensor, unscale: Tensor
    ) -> Tensor:
        """The layer's output; all from ``flag`` on only matters to the backward pass."""
        return self.rows.apply(x, weight)

    def collect(
        self, x: Tensor, flag: Tensor, state: Any, unscale: Tensor, out: Tensor, dout: Tensor
    ) -> Tensor:
        """The statistics where ``flag`` is set, else zeros ("nothing collected").

        The branch is lazy, so a stopped layer or a step between two factor updates costs nothing.
        It stands in a method of its own and reads no parameter: only so is it free of side effects
        for the compiler, which then prunes it as a whole from a plain step.
        """
        if self.graph.kind == self.always:
            return self.measure(x, state, unscale, out, dout)
        if flag > 0:
            statistics = self.measure(x, state, unscale, out, dout)
            if self.graph.guarded:
                statistics = statistics * GUARD
        else:
            statistics = ops.zeros((self.size,), ms.float32)
        return statistics

    def measure(self, x: Tensor, state: Any, unscale: Tensor, out: Tensor, dout: Tensor) -> Tensor:
        """The statistics."""
        # float32 first: squares of half-precision gradients under- and overflow.
        return self.rule(x, out, self.unscaled(CAST(dout, ms.float32), unscale), state)

    def bprop(
        self,
        x: Tensor,
        weight: Tensor,
        flag: Tensor,
        state: Any,
        probe: Tensor,
        unscale: Tensor,
        out: Tensor,
        dout: Tensor,
    ) -> tuple[Any, ...]:
        """Ordinary gradients, and the statistics as the gradient of the probe."""
        dout = self.once(dout)
        # A constant would be left out of the gradients: let it seem to depend on something.
        x = ops.depend(x, dout)
        dx, dweight = self.vjp(self.run)(x, weight, dout)
        statistics = self.collect(x, flag, state, unscale, out, dout)
        return dx, dweight, ZEROS_LIKE(flag), state, statistics, ZEROS_LIKE(unscale)


# Above 0 where a layer of a group collects in this step, int32 scalar.


def _always(curvature: nn.Cell, layer: int, due: Tensor) -> Tensor:
    return MUL(due, _ONCE)


def _unless_stopped(curvature: nn.Cell, layer: int, due: Tensor) -> Tensor:
    active = part(curvature.outcomes.active, curvature.first + layer, 1)
    return MUL(due, active.reshape(()))


def collecting_of(curvature: nn.Cell) -> Callable[[nn.Cell, int, Tensor], Tensor]:
    """What tells, in a graph, whether a layer of a group collects: (group, layer, due) -> flag."""
    return _unless_stopped if curvature.stops else _always


class Replacement(nn.Cell):
    """What takes the place of a layer's operator.

    Attributes:
        layer: the layer.
        replaced: its operator; not set where the layer's class was replaced instead.
        graph: what the graph being compiled is for.
        elsewhere: whether the layer's weight has uses outside of it, so that the gradient is plain.
        capture: the layer's map, whose backward pass collects.
        unscale: float32 scalar that undoes a loss scale which changes while the net trains.
    """

    layer: nn.Cell
    replaced: Any
    graph: GraphKind
    elsewhere: bool = False
    capture: Any
    unscale: Tensor

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        object.__setattr__(self, "unscale", ONE)

    def scale_by(self, unscale: Tensor | None) -> None:
        """Say what undoes the loss scale: a parameter, or None for the optimizer's own number."""
        # Out of the registry: it may change between a parameter and a constant.
        object.__setattr__(self, "unscale", ONE if unscale is None else unscale)
        self.capture.scale_by(unscale is not None)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A copy of the layer holds a copy of its operator."""
        return same, (self.replaced,)

    def update_parameters_name(self, prefix: str = "", recurse: bool = True) -> None:
        """Called where a rewritten layer would take the hook into its registry."""
        refuse_rewriting()

    @property
    def passive(self) -> bool:
        """Whether the layer is a plain one in the graph that is being compiled; a constant in it.

        In that of a model to export, in another optimizer's, and where ``elsewhere`` is set.
        """
        return self.elsewhere or self.graph.kind == FOREIGN or exports(self.layer)


class Bound(Replacement):
    """A capture with its layer's parameters bound.

    Args:
        capture: the capture cell.
        curvature: the group's curvature; supplies the state and the layer's own switch.
        number: of the layer in its group.
        due: int32 scalar parameter, above 0 where this step collects statistics.
        graph: what the graph being compiled is for.
    """

    def __init__(
        self, capture: Capture, curvature: nn.Cell, number: int, due: Tensor, graph: GraphKind
    ) -> None:
        super().__init__()
        self.capture = capture
        self.curvature = curvature
        self.number = number
        self.probe = curvature.probes[number]
        self.due = due
        self.graph = graph
        self.collecting = collecting_of(curvature)

    @property
    def left_out(self) -> bool:
        """Whether the graph that is being compiled has no use for the capture.

        The compiler would prune it, but only after seconds of compiling it.
        """
        return self.graph.kind == PLAIN or self.passive

    def run(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer's linear map."""
        if self.left_out:
            return self.capture.run(x, weight)
        flag = self.collecting(self.curvature, self.number, self.due)
        state = self.curvature.capture_state(self.number, flag)
        return self.capture(x, weight, flag, state, self.probe, self.unscale)


class Hook(Bound):
    """Takes the place of a layer's product or convolution: (x, weight)."""

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer's linear map."""
        # The hook lies outside the cell's mixed-precision cast (Cell.to_float).
        return self.run(x, CAST(weight, x.dtype))


class GatherHook(Bound):
    """Takes the place of the ``Gather`` operator: (table, ids, axis)."""

    def construct(self, table: Tensor, ids: Tensor, axis: int) -> Tensor:
        """The look-up."""
        return self.run(ids, table)
