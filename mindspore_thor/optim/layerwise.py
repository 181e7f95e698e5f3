"""The layers of an optimizer: which are covered, and their gradients as matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindspore_thor.curvature.alike import one_of_each
from mindspore_thor.curvature.base import LayerCurvature
from mindspore_thor.curvature.direct import ANY, GraphKind
from mindspore_thor.curvature.refresh import Refresh
from mindspore_thor.errors import TrainingError
from mindspore_thor.linalg.slices import part
from mindspore_thor.linalg.sums import total
from mindspore_thor.nn import CoveredLayer, LayerRow, attach, detach, find_layers
from mindspore_thor.optim.report import LayerReport
from mindspore_thor.parallel.assignment import Share
from mindspore_thor.parallel.communication import Symmetric

_PLAIN, _MATRIX, _BIAS, _ELEMENTWISE = 0, 1, 2, 3


# What ops.Map calls: loops over layers are no loops of Python, which the compiler unrolls into
# nested functions.


def _precondition(damping: Tensor, precondition: Callable[..., Any], matrix: Tensor) -> Tensor:
    return precondition(matrix, damping)


def _inner(left: Tensor, right: Tensor) -> Tensor:
    return total(left * right)


def _squared_rate(lr: tuple[Tensor, ...], weight: int, product: Tensor) -> Tensor:
    return lr[weight] * lr[weight] * product


def _times(factor: Tensor, matrix: Tensor) -> Tensor:
    return matrix * factor


class LayerwiseOptimizer(nn.Optimizer):
    """An optimizer that treats the gradient of each covered layer as one matrix.

    A subclass says which layer types it covers and builds one curvature per covered layer; its
    ``__init__`` sets what is declared below and then calls ``_cover``.
    """

    supported: tuple[type, ...] = (nn.Dense, nn.Conv2d)
    weights: ParameterTuple
    due: Parameter
    graph: GraphKind
    inverse_scale: float
    max_failures: int
    kl_clip: float | None
    _inverse_share: Share

    def _cover(self, net: nn.Cell, label: str, token_mode: str) -> None:
        for _, cell in net.cells_and_names():
            detach(cell)
        make = one_of_each()
        layers, self._rows = find_layers(net, self.weights, self.supported, token_mode, make)
        curvatures = [self.build_curvature(f"{label}.{layer.name}", layer) for layer in layers]
        self.layer_names = tuple(layer.name for layer in layers)
        self.curvatures = nn.CellList(curvatures, auto_prefix=False)
        self.refresher = Refresh(curvatures, self._inverse_share)
        self.captured = nn.CellList([c for c in curvatures if c.captures], auto_prefix=False)
        probes = [c.statistics for c in curvatures if c.captures]
        self.probe_count = len(probes)
        self.probes = ParameterTuple(probes)
        self.parameters = ParameterTuple([*self.weights, *probes])
        roles = [(_PLAIN, 0, 0)] * len(self.weights)
        matrix_layers: list[int] = []
        self._reduced: set[int] = set()
        for k, (layer, curvature) in enumerate(zip(layers, curvatures)):
            if curvature.direct:
                if curvature.exchanged():
                    self._reduced.update({layer.weight, layer.bias} - {-1})
                attach(layer, curvature, self.due, self.graph, self.inverse_scale, make)
                continue
            if layer.rows is None:
                roles[layer.weight] = (_ELEMENTWISE, k, 0)
                if layer.bias >= 0:
                    roles[layer.bias] = (_ELEMENTWISE, k, 0)
                continue
            roles[layer.weight] = (_MATRIX, k, len(matrix_layers))
            if self.homogeneous(layer):
                roles[layer.bias] = (_BIAS, k, len(matrix_layers))
            matrix_layers.append(k)
            if curvature.captures:
                attach(layer, curvature, self.due, self.graph, self.inverse_scale, make)
        self.roles = tuple(roles)
        self.matrices = tuple(
            (layer.weight, layer.bias if self.homogeneous(layer) else -1) for layer in layers
        )
        self.matrix_layers = tuple(matrix_layers)
        self.matrix_weights = tuple(layers[k].weight for k in matrix_layers)
        self.precondition_each = tuple(curvatures[k].precondition for k in matrix_layers)
        self.collect_each = tuple(c.collect for c in curvatures if c.captures)
        self.observe_each = tuple(curvatures[k].observe for k in matrix_layers)
        self.map = ops.Map()
        self.layer_rows = nn.CellList(
            [layer.rows if layer.rows is not None else nn.Identity() for layer in layers],
            auto_prefix=False,
        )

    def build_curvature(self, name: str, layer: CoveredLayer) -> LayerCurvature:
        """The curvature of one covered layer; every method provides its own."""
        raise TypeError(f"{type(self).__name__} does not say how it builds curvature")

    def homogeneous(self, layer: CoveredLayer) -> bool:
        """Whether the layer's bias is preconditioned together with its weight."""
        return False

    def traffic(self) -> tuple[Symmetric | None, ...]:
        """For each of ``parameters`` the symmetric matrices in it; None where it stays local."""
        probes = [c.symmetric() if c.shared else None for c in self.curvatures if c.captures]
        return (*(None if i in self._reduced else () for i in range(len(self.weights))), *probes)

    def rank_state(self) -> tuple[Parameter, ...]:
        """State that belongs to the rank's own samples, which are its last axis."""
        return tuple(p for c in self.curvatures for p in c.rank_state())

    def scratch(self) -> tuple[Parameter, ...]:
        """Parameters that carry nothing from one step to the next: no checkpoint needs them."""
        return tuple(c.statistics for c in self.curvatures if c.captures and not c.shared)

    # -- inside compiled graphs ---------------------------------------------------------------

    def current_damping(self) -> Tensor:
        """Lam of this step, float32 scalar."""
        raise TypeError(f"{type(self).__name__} does not say what its damping is")

    def matrix(self, gradients: Sequence[Tensor], k: int) -> Tensor:
        """The gradient of layer ``k`` as a float32 matrix [groups, d_out, d_in(+1)]."""
        weight, bias = self.matrices[k]
        rows = self.layer_rows[k]
        matrix = ops.cast(rows.to_matrix(gradients[weight]), ms.float32)
        if bias >= 0:
            column = gradients[bias].reshape((rows.groups, -1, 1))
            matrix = ops.concat((matrix, ops.cast(column, ms.float32)), 2)
        return matrix

    def direction(self, gradients: Sequence[Tensor], lr: Any) -> tuple[Tensor, ...]:
        """Preconditioned gradients, in the parameters' order and shapes."""
        damping = self.current_damping()
        matrices: tuple[Tensor, ...] = ()
        if len(self.matrix_layers) > 0:
            plain = self.map(ops.partial(self.matrix, gradients), self.matrix_layers)
            matrices = self.map(ops.partial(_precondition, damping), self.precondition_each, plain)
            if self.kl_clip is not None:
                matrices = self.clipped(matrices, plain, lr)
        return self.map(ops.partial(self.placed, matrices, damping), self.roles, gradients)

    def clipped(
        self, matrices: tuple[Tensor, ...], plain: tuple[Tensor, ...], lr: Any
    ) -> tuple[Tensor, ...]:
        """V times min(1, sqrt(kl_clip / (lr^2 sum <V, D>))), KFAC's clip.

        Args:
            matrices: V of every layer, float32 [groups, d_out, d_in(+1)].
            plain: D, the gradients, likewise.
            lr: the learning rate, or one for every parameter.

        Returns:
            Matrices of the same shapes.
        """
        products = self.map(_inner, matrices, plain)
        if self.is_group_lr:
            weigh = ops.partial(_squared_rate, lr)
            overlap = total(ops.stack(self.map(weigh, self.matrix_weights, products)))
        else:
            overlap = lr * lr * total(ops.stack(products))
        nu = ops.minimum(1.0, ops.sqrt(self.kl_clip / ops.maximum(overlap, 1e-30)))
        return self.map(ops.partial(_times, nu), matrices)

    def placed(
        self,
        matrices: tuple[Tensor, ...],
        damping: Tensor,
        role: tuple[int, int, int],
        gradient: Tensor,
    ) -> Tensor:
        """A parameter's direction: its part of a layer's matrix, in its gradient's shape and type.

        Args:
            matrices: V of every layer that has one, float32 [groups, d_out, d_in(+1)].
            damping: lam, for curvatures that work element by element.
            role: what the parameter is, its layer, and the place of that layer's V.
            gradient: the parameter's gradient.
        """
        kind, k, position = role
        if kind == _ELEMENTWISE:
            return self.curvatures[k].precondition(gradient, damping)
        if kind == _MATRIX:
            matrix = matrices[position]
            if self.matrices[k][1] >= 0:
                matrix = part(matrix, 0, matrix.shape[2] - 1, 2)
            return ops.cast(self.layer_rows[k].from_matrix(matrix), gradient.dtype)
        if kind == _BIAS:
            matrix = matrices[position]
            column = part(matrix, matrix.shape[2] - 1, 1, 2)
            return ops.cast(column.reshape(gradient.shape), gradient.dtype)
        return gradient

    # -- on the host --------------------------------------------------------------------------

    @contextmanager
    def compiling(self, kind: str) -> Iterator[None]:
        """While this holds, graphs are compiled for one kind of step only."""
        self.graph.kind = kind
        try:
            yield
        finally:
            self.graph.kind = ANY

    def layer_report(self) -> LayerReport:
        """One row per weight-bearing layer; ``str()`` of it is a table.

        Returns:
            Rows with ``layer``, ``type``, ``covered``, ``reason`` (why not), and the counters
            ``accepted``, ``kept`` and ``stopped`` of the trace rule.
        """
        curvature_of = dict(zip(self.layer_names, self.curvatures))
        report = LayerReport()
        for row in self._rows:
            curvature = curvature_of.get(row.layer)
            if curvature is None:
                report.append(row)
                continue
            counts = curvature.counts.asnumpy()
            report.append(
                LayerRow(
                    row.layer,
                    row.type,
                    True,
                    row.reason,
                    int(counts[0]),
                    int(counts[1]),
                    int(curvature.active.asnumpy()) == 0,
                )
            )
        return report

    @property
    def failed_inversions(self) -> int:
        """Failed inversions so far, over all layers."""
        return sum(int(c.counts.asnumpy()[2]) for c in self.curvatures)

    @property
    def trace_counts(self) -> dict[str, int] | None:
        """What THOR's trace rule decided so far, over all layers; None without such a rule.

        Returns:
            ``trace_accepted`` and ``trace_kept``, refreshes that renewed a layer's inverses and
            that kept them, and ``trace_stopped``, layers that are stopped.
        """
        ruled = [curvature for curvature in self.curvatures if curvature.selective]
        if not ruled:
            return None
        counts = [curvature.counts.asnumpy() for curvature in ruled]
        return {
            "trace_accepted": sum(int(count[0]) for count in counts),
            "trace_kept": sum(int(count[1]) for count in counts),
            "trace_stopped": sum(int(c.active.asnumpy()) == 0 for c in ruled),
        }

    def failures_in_a_row(self) -> dict[str, int]:
        """Layer -> failed refreshes since its last good one, for the layers that have any."""
        rows = zip(self.layer_names, self.curvatures)
        found = {name: int(curvature.counts.asnumpy()[3]) for name, curvature in rows}
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
