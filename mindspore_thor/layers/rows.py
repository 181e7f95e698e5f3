"""What a layer is, seen from curvature: its input and output gradient as [N, groups, features, T].

N samples, T shared positions, and one independent linear map per group. These cells hold no
parameters; they only know one layer's geometry. Per-sample output gradients are
``g_n = N * dL_mean/ds_n`` (methods section 0), so the loss must be the batch mean.

N is the length of the layer's own input. A layer that sees one row for the whole batch (position
ids [1, S] whose embeddings are added to every sample) counts as one sample with the batch's summed
gradient: the second moment of the batch's mean gradient, which is smaller than the mean of the
samples' by up to N. Rows of the batch's length (``ids.broadcast_to((N, S))``) are counted exactly.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindspore_thor.graph.slices import part
from mindspore_thor.linalg.patches import ConvGeometry, unfold


class DenseRows(nn.Cell):
    """``nn.Dense``: rows are samples; tokens [N, S, d] are handled as ``token_mode`` says.

    Args:
        d_in: input features.
        d_out: output features.
        token_mode: ``"expand"`` treats the N*S tokens as samples with g = N*S*dL/ds;
            ``"reduce"`` averages a and g over the tokens first; ``"share"`` keeps them as T
            positions of N samples with g = N*dL/ds.
    """

    groups = 1

    def __init__(self, d_in: int, d_out: int, token_mode: str = "expand") -> None:
        super().__init__()
        self.d_in = d_in
        self.d_out = d_out
        self.token_mode = token_mode
        self.matmul = ops.MatMul(transpose_b=True)

    def apply(self, x: Tensor, weight: Tensor) -> Tensor:
        """The linear map, [..., d_in] -> [..., d_out]."""
        shape = x.shape
        if len(shape) == 2:
            return self.matmul(x, weight)
        flat = self.matmul(x.reshape((-1, self.d_in)), weight)
        return flat.reshape(shape[:-1] + (self.d_out,))  # noqa: RUF005 (the graph parser knows no unpacking)

    def _columns(self, rows: Tensor, features: int) -> Tensor:
        if len(rows.shape) == 2 or self.token_mode == "expand":
            return rows.reshape((-1, 1, features, 1))
        rows = rows.reshape((rows.shape[0], -1, features))
        if self.token_mode == "reduce":
            return (rows.sum(1) * (1.0 / rows.shape[1])).reshape((-1, 1, features, 1))
        return rows.transpose((0, 2, 1)).reshape((rows.shape[0], 1, features, -1))

    def samples(self, x: Tensor) -> int:
        """Number of samples N that the statistics average over."""
        if len(x.shape) == 2 or self.token_mode != "expand":
            return x.shape[0]
        return x.size // self.d_in

    def positions(self, dout: Tensor) -> int:
        """Number of shared positions T."""
        if len(dout.shape) == 2 or self.token_mode != "share":
            return 1
        return dout.size // (self.d_out * dout.shape[0])

    def input_columns(self, x: Tensor) -> Tensor:
        """A as [N, 1, d_in, T]."""
        return self._columns(x, self.d_in)

    def output_columns(self, dout: Tensor) -> Tensor:
        """G as [N, 1, d_out, T], from the gradient of the mean loss."""
        scale = dout.shape[0]
        if self.token_mode != "share":
            scale = dout.size // self.d_out
        return self._columns(dout, self.d_out) * scale

    def output_positions(self, out: Tensor) -> Tensor:
        """Something of the output's shape as [N, 1, d_out, T], not scaled."""
        return self._columns(out, self.d_out)

    def input_units(self) -> int:
        """How many parts the input columns can be made in: the input features."""
        return self.d_in

    def part_of_columns(self, x: Tensor, start: int, stop: int) -> Tensor:
        """The input columns of features start..stop alone, [N, 1, stop - start, T]."""
        return self._columns(part(x, start, stop - start, len(x.shape) - 1), stop - start)

    def add_bias(self, out: Tensor, bias: Tensor) -> Tensor:
        """The layer's bias added to its output."""
        return out + bias

    def to_matrix(self, gradient: Tensor) -> Tensor:
        """A weight-shaped tensor as [groups, d_out / groups, d_in]."""
        return gradient.reshape((1, self.d_out, self.d_in))

    def from_matrix(self, matrix: Tensor) -> Tensor:
        """The inverse of :meth:`to_matrix`."""
        return matrix.reshape((self.d_out, self.d_in))


class ConvRows(nn.Cell):
    """``nn.Conv2d``: rows are patches, one independent map per group.

    Args:
        primitive: the layer's own ``Conv2D`` operator.
        geometry: kernel, stride, padding, dilation and groups.
        weight_shape: [C_out, C_in / groups, kh, kw].
    """

    def __init__(
        self, primitive: ops.Primitive, geometry: ConvGeometry, weight_shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.conv = primitive
        self.bias_add = ops.BiasAdd()
        self.geometry = geometry
        self.groups = geometry.groups
        self.weight_shape = tuple(weight_shape)
        self.d_in = weight_shape[1] * weight_shape[2] * weight_shape[3]
        self.d_out = weight_shape[0] // geometry.groups

    def apply(self, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution, [N, C_in, H, W] -> [N, C_out, H', W']."""
        return self.conv(x, weight)

    def samples(self, x: Tensor) -> int:
        """Number of samples N."""
        return x.shape[0]

    def positions(self, dout: Tensor) -> int:
        """Number of output positions T = H' * W'."""
        return dout.shape[2] * dout.shape[3]

    def input_columns(self, x: Tensor) -> Tensor:
        """Patches as [N, groups, d_in, T], ordered (C, kh, kw)."""
        return unfold(x, self.geometry)

    def output_columns(self, dout: Tensor) -> Tensor:
        """G as [N, groups, d_out, T], from the gradient of the mean loss."""
        n = dout.shape[0]
        return dout.reshape((n, self.groups, self.d_out, -1)) * n

    def output_positions(self, out: Tensor) -> Tensor:
        """Something of the output's shape as [N, groups, d_out, T], not scaled."""
        return out.reshape((out.shape[0], self.groups, self.d_out, -1))

    def input_units(self) -> int:
        """How many parts the input columns can be made in: input channels, or groups."""
        return self.weight_shape[1] if self.groups == 1 else self.groups

    def part_of_columns(self, x: Tensor, start: int, stop: int) -> Tensor:
        """The patches of input channels start..stop alone; of groups where there are several."""
        if self.groups == 1:
            return unfold(part(x, start, stop - start, 1), self.geometry)
        width = self.weight_shape[1]
        count = stop - start
        return unfold(part(x, start * width, count * width, 1), self.geometry, count)

    def add_bias(self, out: Tensor, bias: Tensor) -> Tensor:
        """The layer's bias added to its output."""
        return self.bias_add(out, bias)

    def to_matrix(self, gradient: Tensor) -> Tensor:
        """A weight-shaped tensor as [groups, C_out / groups, d_in]."""
        return gradient.reshape((self.groups, self.d_out, self.d_in))

    def from_matrix(self, matrix: Tensor) -> Tensor:
        """The inverse of :meth:`to_matrix`."""
        return matrix.reshape(self.weight_shape)


class EmbeddingRows(nn.Cell):
    """``nn.Embedding``: the input factor is the diagonal of token counts over the batch size.

    Args:
        vocab_size: rows of the table.
        embedding_size: length of an embedding.
    """

    groups = 1

    def __init__(self, vocab_size: int, embedding_size: int) -> None:
        super().__init__()
        self.d_in = vocab_size
        self.d_out = embedding_size

    def apply(self, ids: Tensor, table: Tensor) -> Tensor:
        """The look-up, [N, ...] -> [N, ..., embedding_size]."""
        return ops.gather(table, ids, 0)

    def counts(self, ids: Tensor) -> Tensor:
        """float32 [vocab_size]: how often each token occurs, divided by the batch size N."""
        flat = ids.reshape(-1)
        ones = ops.ones(flat.shape, ms.float32)
        return ops.unsorted_segment_sum(ones, flat, self.d_in) * (1.0 / ids.shape[0])

    def samples(self, ids: Tensor) -> int:
        """Number of samples N."""
        return ids.shape[0]

    def output_columns(self, dout: Tensor) -> Tensor:
        """G as [N*S, 1, embedding_size, 1] with g = N * dL/ds."""
        return dout.reshape((-1, 1, self.d_out, 1)) * dout.shape[0]

    def to_matrix(self, gradient: Tensor) -> Tensor:
        """The table's gradient as [1, vocab_size, embedding_size]."""
        return gradient.reshape((1, self.d_in, self.d_out))

    def from_matrix(self, matrix: Tensor) -> Tensor:
        """The inverse of :meth:`to_matrix`."""
        return matrix.reshape((self.d_in, self.d_out))
