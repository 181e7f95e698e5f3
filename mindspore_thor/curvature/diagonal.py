"""THOR's treatment of embeddings and LayerNorm (methods section 0, read in MindSpore's THOR)."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindspore_thor.curvature.alike import Maker
from mindspore_thor.curvature.base import GroupCurvature, state, where_good
from mindspore_thor.linalg.blocks import block_layout
from mindspore_thor.linalg.inverse import INVERSE
from mindspore_thor.linalg.moments import block_moments
from mindspore_thor.linalg.slices import part


class EmbeddingRule(nn.Cell):
    """Backward rule of an embedding: diagonal A and full G as one float32 vector."""

    def __init__(self, rows: nn.Cell) -> None:
        super().__init__()
        self.rows = rows
        self.layout = block_layout(rows.d_out, None)

    def construct(self, ids: Tensor, out: Tensor, dout: Tensor, state: Tensor) -> Tensor:
        """Token ids and the gradient of the looked-up rows -> statistics."""
        columns = self.rows.output_columns(dout)
        # Sums over the looked-up rows, whose number stands in the place of the positions: several
        # look-ups add up to one of all their ids.
        rows = columns.shape[0]
        g = block_moments(columns, self.layout) * rows
        meta = Tensor([1.0, rows, self.rows.samples(ids)], ms.float32)
        return ops.concat((self.rows.counts(ids), g.reshape(-1), meta))


class EmbeddingCurvature(GroupCurvature):
    """V = (1 / (A + sqrt(lam)))[:, None] * D @ (G + sqrt(lam) I)^-1, G never split.

    A is the diagonal of token counts / N, G the mean of g g^T over the looked-up rows with
    g = N dL/ds.

    Args:
        name: prefix of the parameters' names.
        layers: L.
        rows: the layers' geometry.
    """

    solver = INVERSE

    def __init__(self, name: str, layers: int, rows: nn.Cell) -> None:
        vocab, size = rows.d_in, rows.d_out
        super().__init__(name, layers, vocab + size * size)
        self.rows = rows
        self.scale_a = state(np.ones((layers, vocab, 1), np.float32), f"{name}.inverse_a")
        eye = np.broadcast_to(np.eye(size, dtype=np.float32), (layers, size, size)).copy()
        self.inverse_g = state(eye, f"{name}.inverse_g")

    def make_rule(self, make: Maker, rows: nn.Cell) -> nn.Cell:
        """Counts and G from one backward pass."""
        return make(EmbeddingRule, rows)

    def gradient_part(self) -> tuple[int, int]:
        """G."""
        return self.rows.d_in, self.rows.d_out**2

    def averaged(self, fresh: Tensor) -> Tensor:
        """Counts of all look-ups together, and G as the mean over all their rows."""
        uses = ops.maximum(part(fresh, self.end, 1, 1), 1.0)
        rows = part(fresh, self.end + 1, 1, 1)
        counts = part(fresh, 0, self.rows.d_in, 1)
        g = part(fresh, self.rows.d_in, self.rows.d_out**2, 1) / ops.maximum(rows, 1.0)
        samples = part(fresh, self.end + 2, 1, 1) / uses
        return ops.concat((counts, g, ops.ones_like(uses), rows, samples), 1)

    def symmetric(self) -> tuple[tuple[int, int, int], ...]:
        """G, behind the counts."""
        return ((self.rows.d_in, 1, self.rows.d_out),)

    def stacks(self) -> tuple[tuple[int, int], ...]:
        """G alone."""
        return ((1, self.rows.d_out),)

    def problems(self, damping: Tensor) -> tuple[Tensor, ...]:
        """G with sqrt(lam)."""
        vocab, size = self.rows.d_in, self.rows.d_out
        g = part(self.statistics, vocab, size * size, 1).reshape((-1, size, size))
        return g, ops.sqrt(damping) * ops.ones((self.layers,), ms.float32)

    def derived(self) -> tuple[Parameter, ...]:
        """The inverses of G and of A's diagonal."""
        return self.inverse_g, self.scale_a

    def install(
        self, good: Tensor, damping: Tensor, solutions: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Take the inverse of G, and with it that of A's diagonal."""
        scale = 1.0 / (part(self.statistics, 0, self.rows.d_in, 1) + ops.sqrt(damping))
        return where_good(good, (solutions[0], scale), (self.inverse_g, self.scale_a))

    def precondition(self, matrix: Tensor, damping: Tensor) -> Tensor:
        """[L, vocab, size] -> the same shape."""
        return ops.bmm(self.scale_a * matrix, self.inverse_g)


class LayerNormCurvature(GroupCurvature):
    """d = D / (D * D / N + sqrt(lam)), elementwise on gamma and beta; nothing is stored.

    Args:
        name: prefix of the parameters' names.
        layers: L.
        samples: int32 parameter with the batch size N of the latest step.
    """

    def __init__(self, name: str, layers: int, samples: Tensor) -> None:
        super().__init__(name, layers, 0)
        self.samples = samples

    def ready(self) -> Tensor:
        """Nothing has to be collected."""
        return ops.ones((self.layers,), ms.bool_)

    def ready_layers(self) -> np.ndarray:
        """The same on the host."""
        return np.ones((self.layers,), bool)

    def precondition(self, matrix: Tensor, damping: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        return matrix / (matrix * matrix / ops.cast(self.samples, ms.float32) + ops.sqrt(damping))
