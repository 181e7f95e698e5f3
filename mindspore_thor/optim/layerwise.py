"""The layers of an optimizer: which are covered, in which groups, and their directions."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, cast

from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindspore_thor.capture.attach import attach, detach, owner_of, owns_bias
from mindspore_thor.capture.hooks import GUARD
from mindspore_thor.curvature.direct import DirectCurvature
from mindspore_thor.curvature.group import GroupCurvature
from mindspore_thor.curvature.refresh import Refresh
from mindspore_thor.curvature.state import LayerState
from mindspore_thor.errors import TrainingError
from mindspore_thor.graph.kind import GraphKind
from mindspore_thor.graph.shared import one_of_each
from mindspore_thor.graph.tuples import joined
from mindspore_thor.layers.coverage import CoveredLayer, find_layers
from mindspore_thor.layers.layer_type import Form
from mindspore_thor.optim.beside import Beside, directions_beside
from mindspore_thor.optim.each_group import (
    hand,
    stacked,
    times,
    uses_of,
)
from mindspore_thor.optim.exclusion import excluded
from mindspore_thor.optim.packing import packing_of
from mindspore_thor.optim.report import PLAIN, LayerReport, report_of
from mindspore_thor.optim.rest import Rest
from mindspore_thor.parallel.assignment import Share
from mindspore_thor.parallel.communication import Symmetric

ALTERED = (
    "the statistics that travel among the gradients were altered on their way to the optimizer "
    "(by a loss scale, clipping or averaging): train with mindspore_thor.TrainStep(net, loss_fn, "
    "optimizer), whose optimizer has loss_scale and clip_norm, and which has accumulate"
)


class LayerwiseOptimizer(nn.Optimizer):
    """An optimizer that treats the gradients of all covered layers of one shape as one batch.

    A subclass says which forms of layers it covers and builds one curvature per group of layers;
    its ``__init__`` sets what is declared below and then calls ``_cover``.
    """

    supported: tuple[Form, ...] = (Form.LINEAR,)
    superseded = ""  # why this optimizer cannot make another step
    weights: ParameterTuple
    passed: ParameterTuple  # what every backward pass differentiates by; weights come first
    due: Parameter
    graph: GraphKind
    inverse_scale: float
    exclude: str | tuple[str, ...]
    max_failures: int
    rest: Rest | None
    grafting: str | None
    _inverse_share: Share

    def _cover(self, net: nn.Cell, label: str, token_mode: str) -> None:
        self._take_over(net)
        make = one_of_each()
        layers, self._rows = find_layers(net, self.weights, self.supported, token_mode, make)
        left_out = excluded(self.exclude, layers, type(self).__name__)
        layers = [layer for layer in layers if layer.name not in left_out]
        for row in self._rows:
            if row.layer in left_out:
                row.covered, row.reason = False, left_out[row.layer]
        members: dict[Hashable, list[CoveredLayer]] = {}
        for layer in layers:
            members.setdefault(self.group_key(layer), []).append(layer)
        groups = [self._make_group(label, found) for found in members.values()]
        self.groups = nn.CellList(groups, auto_prefix=False)
        scope = f"{label}.{self.weights[0].name}.outcomes"
        self.refresher = Refresh(groups, self._inverse_share, scope, self.trace_rule())
        place = {
            layer.name: (group, number)
            for group, found in zip(groups, members.values())
            for number, layer in enumerate(found)
        }
        self.layer_names = tuple(layer.name for layer in layers)
        self._places = [place[name] for name in self.layer_names]
        batches = [(g, found) for g, found in zip(groups, members.values()) if not g.direct]
        beside = self._beside(layers, place)
        # Layers that a plain step has no hooks in; those of a direct method change its gradients.
        self.hooked: list[nn.Cell] = []
        hooks = {}
        for layer in layers:
            group, number = place[layer.name]
            if group.captures:
                hooks[layer.name] = attach(layer, group, number, self, make)
                if not group.direct:
                    self.hooked.append(layer.cell)
        self.layers, self._hooks = tuple(layers), hooks
        self._members = beside.members or tuple(
            tuple(layer.name for layer in found) for _, found in batches
        )
        self.packings = beside.gradients or tuple(
            packing_of(found, self.weights, self.packs_bias(found[0])) for _, found in batches
        )
        self.beside_packings = beside.directions
        self.beside_count = len(beside.probes)
        self.group_layers = tuple(len(packing.weights) for packing in self.packings)
        self.group_starts = tuple(sum(self.group_layers[:k]) for k in range(len(self.packings)))
        self.ready_each = tuple(group.ready for group, _ in batches)
        self.direction_each = tuple(group.direction for group, _ in batches)
        self.observe_each = tuple(group.observe for group, _ in batches)
        self.group_weights = tuple(packing.weights for packing in self.packings)
        self.passed = ParameterTuple([*self.weights, *beside.probes])
        self.passed_count = len(self.passed)
        self.passed_section = slice(None, self.passed_count)
        self._gather_probes(groups)
        self.map = ops.Map()
        self.coverable = sorted({i for layer in layers for i in self._coverable(layer)})
        self.keep_plain({layer.name: layer.elsewhere for layer in layers if layer.elsewhere})

    def _beside(
        self, layers: Sequence[CoveredLayer], place: dict[str, tuple[GroupCurvature, int]]
    ) -> Beside:
        direct = [layer for layer in layers if place[layer.name][0].direct]
        if self.grafting is None or not direct:
            return Beside()
        curvatures = [cast(DirectCurvature, place[layer.name][0]) for layer in direct]

        def alike(layer: CoveredLayer) -> Hashable:
            return LayerwiseOptimizer.group_key(self, layer)

        return directions_beside(direct, curvatures, self.weights, owns_bias, alike)

    def scale_by(self, unscale: Tensor | None) -> None:
        """Say what undoes the loss scale on statistics in the graphs compiled from now on.

        Args:
            unscale: float32 scalar parameter, or None for the optimizer's own ``inverse_scale``.
        """
        for hook in self._hooks.values():
            hook.scale_by(unscale)

    def keep_plain(self, elsewhere: dict[str, str]) -> None:
        """Give layers whose weights have uses outside of them their plain gradient.

        It holds for the graphs that are compiled from now on. The layers' state stays where it is.

        Args:
            elsewhere: name of the layer -> what the report says of it.
        """
        self.elsewhere = elsewhere
        for name, hook in self._hooks.items():
            hook.elsewhere = name in elsewhere
        plain = {
            i
            for layer in self.layers
            if layer.name in elsewhere
            for i in (layer.weight, layer.bias)
        }
        directed = [i for packing in self.packings for i in packing.weights + packing.biases]
        # Where every parameter's direction is found: behind those of the groups are the gradients.
        places = [len(directed) + i for i in range(len(self.weights))]
        for position, i in enumerate(directed):
            if i not in plain:
                places[i] = position
        self.places = tuple(places)
        self.preconditioned = frozenset(
            i
            for layer in self.layers
            if layer.name not in elsewhere
            for i in self._coverable(layer)
        )
        members = [name for names in self._members for name in names]
        self.directed_layers = Tensor([name not in elsewhere for name in members])
        self.some_plain = bool(plain)
        self.divide()

    def divide(self) -> None:
        """Follow a change of ``preconditioned``."""
        raise TypeError(f"{type(self).__name__} does not say what moves the parameters")

    def _take_over(self, net: nn.Cell) -> None:
        """Remove hooks that are not needed any more, and those of layers that are ours now.

        What another optimizer trains stays as it is. One that had layers of ours cannot make
        another step, and says so when it is asked to.
        """
        own = {id(p) for p in self.weights}
        for name, cell in net.cells_and_names():
            if not any(id(p) in own for p in cell.get_parameters(expand=False)):
                continue
            owner = owner_of(cell)
            if owner is not None and not owner.superseded:
                owner.superseded = (
                    f"layer {name or type(cell).__name__} of this {type(owner).__name__} belongs "
                    f"to a {type(self).__name__} that was made later: train with that one, or give "
                    "each the params of its own half of the network"
                )
            detach(cell)

    def _make_group(self, label: str, members: Sequence[CoveredLayer]) -> GroupCurvature:
        more = f"+{len(members) - 1}" if len(members) > 1 else ""
        return self.build_group(f"{label}.{self.weights[members[0].weight].name}{more}", members)

    def _gather_probes(self, groups: Sequence[GroupCurvature]) -> None:
        captured = [group for group in groups if group.captures]
        self.captured = nn.CellList(captured, auto_prefix=False)
        probes = [probe for group in captured for probe in group.probes]
        self.probe_count = len(probes)
        # From behind: a pass of their own has them alone.
        self.probes_section = slice(-len(probes), None) if probes else slice(0, 0)
        self.probes = ParameterTuple(probes)
        self.parameters = ParameterTuple([*self.passed, *probes])
        ends = [sum(group.layers for group in captured[: k + 1]) for k in range(len(captured))]
        self.probe_numbers = tuple(
            tuple(range(end - group.layers, end)) for end, group in zip(ends, captured)
        )
        self.collect_each = tuple(group.collect for group in captured)

    def group_key(self, layer: CoveredLayer) -> Hashable:
        """Layers with equal keys form a group; by default those of one type and shape."""
        weight = self.weights[layer.weight]
        bias = self.weights[layer.bias] if self.packs_bias(layer) else None
        return (
            layer.type,
            None if layer.rows is None else (layer.rows.groups, layer.rows.transposed),
            tuple(weight.shape),
            weight.dtype,
            None if bias is None else (tuple(bias.shape), bias.dtype),
        )

    def packs_bias(self, layer: CoveredLayer) -> bool:
        """Whether a layer's bias is part of its group's matrices."""
        return layer.bias >= 0 and (layer.rows is None or self.homogeneous(layer))

    def directs_bias(self, layer: CoveredLayer) -> bool:
        """Whether the method changes the gradient of a layer's bias, too."""
        direct = self._places[self.layer_names.index(layer.name)][0].direct
        return owns_bias(layer) if direct else self.packs_bias(layer)

    def _coverable(self, layer: CoveredLayer) -> tuple[int, ...]:
        """Which parameters of a layer the method moves, as indices."""
        return (layer.weight, layer.bias) if self.directs_bias(layer) else (layer.weight,)

    def build_group(self, name: str, layers: Sequence[CoveredLayer]) -> GroupCurvature:
        """The curvature of layers that are equal but for their names; every method has its own."""
        raise TypeError(f"{type(self).__name__} does not say how it builds curvature")

    def trace_rule(self) -> Any:
        """What decides which refreshes are made; None where all are."""
        return None

    def homogeneous(self, layer: CoveredLayer) -> bool:
        """Whether the layer's bias is preconditioned together with its weight."""
        return False

    @property
    def curvatures(self) -> list[LayerState]:
        """What is stored of every covered layer, in the order of ``layer_names``."""
        return [LayerState(group, number) for group, number in self._places]

    def traffic(self) -> tuple[Symmetric | None, ...]:
        """For each of ``parameters`` the symmetric matrices in it; None where it stays local."""
        reduced = {
            i
            for layer, (group, _) in zip(self.layers, self._places)
            if group.direct and group.exchanged() and layer.name not in self.elsewhere
            for i in (layer.weight, layer.bias)
        }
        probes = [g.symmetric() if g.shared else None for g in self.captured for _ in g.probes]
        return (*(None if i in reduced else () for i in range(len(self.passed))), *probes)

    def rank_state(self) -> tuple[Parameter, ...]:
        """State that belongs to the rank's own samples, which are its last axis."""
        return tuple(p for group in self.groups for p in group.rank_state())

    def scratch(self) -> tuple[Parameter, ...]:
        """Parameters that carry nothing from one step to the next: no checkpoint needs them."""
        return (*self.passed[len(self.weights) :], *self.probes)

    # -- inside compiled graphs ---------------------------------------------------------------

    def current_damping(self) -> Tensor:
        """Lam of this step, float32 scalar."""
        raise TypeError(f"{type(self).__name__} does not say what its damping is")

    def collect_probes(self, statistics: Sequence[Tensor]) -> bool:
        """Let every group take its probes' gradients, in order.

        A probe's gradient is the float32 vector of its layer's statistics, of the probe's shape.
        """
        if self.probe_count == 0:
            return False
        fresh = self.map(ops.partial(stacked, statistics), self.probe_numbers)
        if self.graph.guarded:
            fresh = self.map(ops.partial(times, 1.0 / GUARD), fresh)
            self.refuse_altered(fresh)
        self.map(hand, self.collect_each, fresh)
        return True  # see GroupCurvature.collect

    def refuse_altered(self, fresh: tuple[Tensor, ...]) -> bool:
        """Raise where another training cell has changed statistics on their way.

        Every use of a layer counts one in them: what was scaled or clipped is no whole number.
        """
        uses = joined(self.map(uses_of, fresh))
        away = ops.abs(uses - ops.maximum(ops.round(uses), 1.0))
        if ops.logical_and(uses > 0, away > 1e-5 * uses).any():
            raise ValueError(ALTERED)
        return True

    # -- on the host --------------------------------------------------------------------------

    def layer_report(self) -> LayerReport:
        """Which rule moves what: one row per layer with weights.

        Returns:
            Rows with ``layer``, ``type``, ``rule``, ``covered``, ``reason`` (why not), and the
            counters ``accepted``, ``kept`` and ``stopped`` of the trace rule. ``str()`` sums them
            up by type, ``table()`` shows them all, ``rules`` says it for every parameter.
        """
        begun = int(self.global_step.asnumpy()[0]) > 0
        states = dict(zip(self.layer_names, self.curvatures))
        method, rest = type(self).__name__, PLAIN if self.rest is None else self.rest.rule
        rules = {
            weight.name: method if i in self.preconditioned else rest
            for i, weight in enumerate(self.weights)
        }
        return report_of(self._rows, states, self.elsewhere, begun, method, rules, rest)

    @property
    def failed_inversions(self) -> int:
        """Failed inversions so far, over all layers."""
        return sum(int(group.counts.asnumpy()[:, 2].sum()) for group in self.groups)

    @property
    def trace_counts(self) -> dict[str, int] | None:
        """What THOR's trace rule decided so far, over all layers; None without such a rule.

        Returns:
            ``trace_accepted`` and ``trace_kept``, refreshes that renewed a layer's inverses and
            that kept them, and ``trace_stopped``, layers that are stopped.
        """
        ruled = [group for group in self.groups if group.selective]
        if not ruled:
            return None
        counts = [group.counts.asnumpy() for group in ruled]
        return {
            "trace_accepted": sum(int(count[:, 0].sum()) for count in counts),
            "trace_kept": sum(int(count[:, 1].sum()) for count in counts),
            "trace_stopped": sum(int((group.active.asnumpy() == 0).sum()) for group in ruled),
        }

    def failures_in_a_row(self) -> dict[str, int]:
        """Layer -> failed refreshes since its last good one, for the layers that have any."""
        rows = {id(group): group.counts.asnumpy()[:, 3] for group in self.groups}
        found = {
            name: int(rows[id(group)][number])
            for name, (group, number) in zip(self.layer_names, self._places)
        }
        return {name: count for name, count in found.items() if count}

    def check_failures(self) -> None:
        """Look at the failed refreshes on the host.

        Raises:
            TrainingError: where a layer's factors failed ``max_failures`` times in a row.
        """
        for layer, count in self.failures_in_a_row().items():
            if count >= self.max_failures:
                raise TrainingError(
                    f"layer {layer}: its factors could not be inverted {count} times in a row; "
                    "use a larger damping or a smaller learning rate"
                )
