"""Capture for methods that change a layer's gradient inside the backward pass."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindspore_thor.capture.hooks import GUARD, ONE, Replacement, collecting_of
from mindspore_thor.capture.plain import same
from mindspore_thor.capture.unscaling import BY_PARAMETER, unscaling
from mindspore_thor.graph.kind import MEASURE, PLAIN, GraphKind
from mindspore_thor.graph.once import Once
from mindspore_thor.graph.operators import CAST, ITEM, ZEROS_LIKE
from mindspore_thor.layers.rows import Rows
from mindspore_thor.linalg.sums import SUM


class DirectRule(nn.Cell):
    """What a :class:`~mindspore_thor.capture.direct.DirectCapture` asks of a method.

    Args:
        rows: the layer's geometry, with samples as its first axis.
        has_bias: whether the layer's bias belongs to its block.
        inverse_scale: what undoes the loss scale on ``dout``.

    Attributes:
        dynamic: whether the argument ``unscale`` undoes it instead.
    """

    dynamic = False
    keeps_apart = False
    """Whether the statistics of a pass are of no use to the gradients of the same pass."""

    def __init__(self, rows: Rows, has_bias: bool, inverse_scale: float) -> None:
        super().__init__()
        self.rows = rows
        self.has_bias = has_bias
        self.inverse_scale = inverse_scale
        self.unscale = self.given = unscaling(inverse_scale)
        self.vjp = ops.GradOperation(get_all=True, sens_param=True)

    def scale_by(self, dynamic: bool) -> None:
        """Say which number undoes the loss scale."""
        self.dynamic = dynamic
        self.unscale = BY_PARAMETER if dynamic else self.given

    def run(self, x: Tensor, weight: Tensor) -> Tensor:
        """The linear map; a method, because GradOperation differentiates those exactly."""
        return self.rows.apply(x, weight)

    def weight_gradient(self, x: Tensor, weight: Tensor, dout: Tensor) -> Tensor:
        """The plain gradient of the weight for an output gradient."""
        return self.vjp(self.run)(x, weight, dout)[1]

    def plain(self, x: Tensor, weight: Tensor, bias: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        """(dweight, dbias) of the loss itself."""
        dbias = ZEROS_LIKE(bias)
        if self.has_bias:
            dbias = CAST(SUM(self.per_sample_sums(dout), 0), bias.dtype)
        return self.weight_gradient(x, weight, dout), dbias

    def per_sample_sums(self, dout: Tensor) -> Tensor:
        """[N, C_out]: the output gradient summed over positions, a sample's bias gradient."""
        columns = self.rows.output_positions(dout)
        return SUM(columns, 3).reshape((columns.shape[0], -1))

    def unscaled(self, dout: Tensor, unscale: Tensor) -> Tensor:
        """The output gradient of the mean loss in float32, without the loss scale."""
        return self.unscale(CAST(dout, ms.float32), unscale)


class DirectCapture(nn.Cell):
    """A layer's affine map whose bprop lets a rule make the weight's and the bias's gradient.

    ``construct`` touches neither the rule nor any functional operator: the compiler drops what a
    cell with a bprop of its own uses there, and would miss it in the backward pass.

    The input's gradient is always the ordinary one, so the layers below see the plain backward
    pass. The weight's gradient is computed once, by the rule.

    Args:
        rule: see below.
        graph: what the graph being compiled is for.
        beside: whether the rule's gradients leave beside the plain ones, as those of the arguments
            ``weight_probe`` and ``bias_probe``, and not in their place; float32.

    The rule provides, over one vector of fresh statistics:
        ``rule(x, out, dout, state)``: the statistics of a collecting step;
        ``rule.idle(x, state)``: the same vector where nothing is collected;
        ``rule.reported(statistics)``: the part of it that the probe is shaped like;
        ``rule.derived(x, statistics)`` / ``rule.stored(x, state)``: what the gradients need, from
        fresh statistics or from the stored state;
        ``rule.gradients(x, weight, bias, dout, derived, unscale)``: (dweight, dbias);
        ``rule.keeps_apart``: that the gradients only ever need the stored state.
    """

    def __init__(self, rule: DirectRule, graph: GraphKind, beside: bool = False) -> None:
        super().__init__(auto_prefix=False)
        self.beside = beside
        self.rule = rule
        self.rows = rule.rows
        self.graph = graph
        self.has_bias = rule.has_bias
        self.vjp = ops.GradOperation(get_all=True, sens_param=True)
        self.once = Once()

    def scale_by(self, dynamic: bool) -> None:
        """Say which number undoes the loss scale."""
        self.rule.scale_by(dynamic)

    def run(self, x: Tensor, weight: Tensor) -> Tensor:
        """The linear map; a method, because GradOperation differentiates those exactly."""
        return self.rows.apply(x, weight)

    def construct(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        flag: Tensor,
        probe: Tensor,
        unscale: Tensor,
        s0: Tensor,
        s1: Tensor,
        s2: Tensor,
        s3: Tensor,
        weight_probe: Tensor,
        bias_probe: Tensor,
    ) -> Tensor:
        """The layer's output; all from ``flag`` on only matters to the backward pass.

        The state is four tensors because a bprop reads the items of a tuple argument as zeros.
        """
        return self.affine(x, weight, bias)

    def affine(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The map itself."""
        out = self.rows.apply(x, weight)
        return self.rows.add_bias(out, bias) if self.has_bias else out

    def collect(
        self, x: Tensor, flag: Tensor, state: Any, unscale: Tensor, out: Tensor, dout: Tensor
    ) -> Tensor:
        """The statistics where ``flag`` is set; the branch is lazy."""
        if flag > 0:
            statistics = self.rule(x, out, self.rule.unscaled(dout, unscale), state)
        else:
            statistics = self.rule.idle(x, state)
        return statistics

    def measure(
        self,
        x: Tensor,
        flag: Tensor,
        state: Any,
        probe: Tensor,
        unscale: Tensor,
        out: Tensor,
        dout: Tensor,
    ) -> tuple[Tensor, Any]:
        """Statistics for the probe and what the gradients need, in this kind of graph."""
        if self.graph.kind == PLAIN:
            # No plain step asks for statistics.
            return probe, self.rule.stored(x, state)
        if self.rule.keeps_apart:
            return self.collect(x, flag, state, unscale, out, dout), self.rule.stored(x, state)
        statistics = self.collect(x, flag, state, unscale, out, dout)
        return self.rule.reported(statistics), self.rule.derived(x, statistics)

    def bprop(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        flag: Tensor,
        probe: Tensor,
        unscale: Tensor,
        s0: Tensor,
        s1: Tensor,
        s2: Tensor,
        s3: Tensor,
        weight_probe: Tensor,
        bias_probe: Tensor,
        out: Tensor,
        dout: Tensor,
    ) -> tuple[Any, ...]:
        """The input's plain gradient, the rule's gradients, and the statistics for the probe."""
        dout = self.once(dout)
        # A constant would be left out of the gradients: let it seem to depend on something. Not
        # for the statistics, which may need no backward pass at all.
        seen = ops.depend(x, dout)
        dx = self.vjp(self.run)(seen, weight, dout)[0]
        state = (s0, s1, s2, s3)
        dweight, dbias = ZEROS_LIKE(weight), ZEROS_LIKE(bias)
        vweight, vbias = ZEROS_LIKE(weight_probe), ZEROS_LIKE(bias_probe)
        if self.graph.kind == MEASURE:
            # Nobody asks for the weights' gradients: the compiler would find that out, but late.
            statistics = self.collect(x, flag, state, unscale, out, dout)
        else:
            statistics, derived = self.measure(x, flag, state, probe, unscale, out, dout)
            dweight, dbias = self.rule.gradients(seen, weight, bias, dout, derived, unscale)
            if self.beside:
                vweight, vbias = CAST(dweight, ms.float32), CAST(dbias, ms.float32)
                dweight, dbias = self.rule.plain(seen, weight, bias, dout)
            if self.graph.guarded:
                statistics, vweight, vbias = statistics * GUARD, vweight * GUARD, vbias * GUARD
        no_flag, no_unscale = ZEROS_LIKE(flag), ZEROS_LIKE(unscale)
        # One tuple: to join two costs the compiler three functions.
        return dx, dweight, dbias, no_flag, statistics, no_unscale, s0, s1, s2, s3, vweight, vbias


class DirectHook(Replacement):
    """What takes the place of a layer's operator, with the layer's own bias inside.

    Args:
        capture: the capture cell.
        curvature: the layer's curvature; supplies the probe and the state.
        due: int32 scalar parameter, 1 where this step collects statistics.
        bias: the layer's bias, or None.
    """

    def __init__(
        self, capture: DirectCapture, curvature: nn.Cell, due: Tensor, bias: Tensor | None
    ) -> None:
        super().__init__()
        self.capture = capture
        self.graph = capture.graph
        self.curvature = curvature
        self.probe = curvature.probes[0]
        self.collecting = collecting_of(curvature)
        self.due = due
        self.has_bias = bias is not None
        self.bias = bias
        self.weight_probe = self.bias_probe = ONE
        if capture.beside:
            self.weight_probe, *more = curvature.direction_probes
            if more:
                (self.bias_probe,) = more

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer's affine map."""
        curvature = self.curvature
        # The hook lies outside the cell's mixed-precision cast (Cell.to_float).
        weight = CAST(weight, x.dtype)
        bias = CAST(self.bias, x.dtype) if self.has_bias else Tensor(0.0, ms.float32)
        if self.passive:
            return self.capture.affine(x, weight, bias)
        flag = self.collecting(curvature, 0, self.due)
        state = curvature.capture_state(0, flag)
        return self.capture(
            x,
            weight,
            bias,
            flag,
            self.probe,
            self.unscale,
            ITEM(state, 0),
            ITEM(state, 1),
            ITEM(state, 2),
            ITEM(state, 3),
            self.weight_probe,
            self.bias_probe,
        )


class NoBias(nn.Cell):
    """Takes the place of a layer's bias operator: the hook has added the bias already.

    Args:
        replaced: that operator.
    """

    def __init__(self, replaced: ops.Primitive) -> None:
        super().__init__(auto_prefix=False)
        object.__setattr__(self, "replaced", replaced)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A copy of the layer holds a copy of its operator."""
        return same, (self.replaced,)

    def construct(self, out: Tensor, bias: Tensor) -> Tensor:
        """``out`` as it is."""
        return out
