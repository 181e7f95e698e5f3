"""What a layer is, seen from curvature: its input and output gradient as [N, groups, features, T].

N samples, T shared positions, and one independent linear map per group. Such cells hold no
parameters; they only know one layer's geometry. Per-sample output gradients are
``g_n = N * dL_mean/ds_n`` (methods section 0), so the loss must be the batch mean.

N is the length of the layer's own input. A layer that sees one row for the whole batch (position
ids [1, S] whose embeddings are added to every sample) counts as one sample with the batch's summed
gradient: the second moment of the batch's mean gradient, which is smaller than the mean of the
samples' by up to N. Rows of the batch's length (``ids.broadcast_to((N, S))``) are counted exactly.
"""

from __future__ import annotations

from typing import Protocol

from mindspore import Tensor, nn, ops

from mindspore_thor.graph.operators import MUL, TRANSPOSE
from mindspore_thor.graph.slices import part_or_all
from mindspore_thor.linalg.patches import ConvGeometry


@ops.constexpr
def samples_of(shape: tuple[int, ...]) -> int:
    """N, the length of the first axis."""
    return shape[0]


class Rows(Protocol):
    """What the geometry of a linear layer can tell.

    Attributes:
        groups: independent maps.
        d_in: input features of one map.
        d_out: output features of one map.
        matrix: rows and columns of the matrix that one map's gradient is.
        transposed: whether the parameter holds that matrix with rows and columns swapped.
        geometry: the constants of a two-dimensional convolution, whose patches need not be made.
        token_mode: how inputs with a token axis, of which some may be padding, are treated (see
            :class:`~mindspore_thor.layers.types.dense.DenseRows`); empty where there is none.
    """

    token_mode: str
    groups: int
    d_in: int
    d_out: int
    transposed: bool
    geometry: ConvGeometry | None

    @property
    def matrix(self) -> tuple[int, int]:
        """See the class."""

    def apply(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer's map: its input and its parameter -> its output, without the bias."""

    def samples(self, x: Tensor) -> int:
        """Number of samples N that the statistics average over."""

    def positions(self, dout: Tensor) -> int:
        """Number of shared positions T."""

    def input_columns(self, x: Tensor) -> Tensor:
        """A as [N, groups, d_in, T]."""

    def output_columns(self, dout: Tensor) -> Tensor:
        """G as [N, groups, d_out, T], from the gradient of the mean loss: scaled with N."""

    def output_positions(self, out: Tensor) -> Tensor:
        """Something of the output's shape as [N, groups, d_out, T], not scaled."""

    def position_columns(self, weights: Tensor) -> Tensor:
        """One number for each token, [N, S, 1], as [N, 1, 1, T]; only with a ``token_mode``."""

    def input_units(self) -> int:
        """How many parts the input columns can be made in; where there are groups, so many."""

    def part_of_columns(self, x: Tensor, start: int, stop: int) -> Tensor:
        """The input columns of the parts start..stop alone."""

    def add_bias(self, out: Tensor, bias: Tensor) -> Tensor:
        """The layer's bias added to its output."""

    def to_matrix(self, gradient: Tensor) -> Tensor:
        """A weight-shaped tensor as [groups, d_out, d_in]."""

    def from_matrix(self, matrix: Tensor) -> Tensor:
        """The inverse of :meth:`to_matrix`."""


class TableRows(Protocol):
    """What the geometry of a look-up can tell; what it shares with :class:`Rows` means the same.

    Attributes:
        groups: 1.
        d_in: rows of the table.
        d_out: columns of the table.
        matrix: rows and columns of the table.
        transposed: False.
    """

    groups: int
    d_in: int
    d_out: int
    transposed: bool

    @property
    def matrix(self) -> tuple[int, int]:
        """See the class."""

    def apply(self, ids: Tensor, table: Tensor) -> Tensor:
        """The look-up."""

    def samples(self, ids: Tensor) -> int:
        """Number of samples N."""

    def counts(self, ids: Tensor, weights: Tensor | None = None) -> Tensor:
        """float32 [d_in]: how often each row occurs, divided by the batch size N.

        With ``weights``, one for every id, an id counts that much.
        """

    def output_columns(self, dout: Tensor) -> Tensor:
        """G as [looked-up rows, 1, d_out, 1], scaled with N."""


class LinearRows(nn.Cell):
    """Base of the geometries of linear maps: a :class:`Rows` but for what only a layer knows.

    A subclass has ``apply(x, weight)``, ``input_columns(x)`` and ``output_positions(out)``. What is
    here suits inputs and outputs whose first axis are the samples.

    Args:
        d_in: input features of one map.
        d_out: output features of one map.
        weight_shape: of the parameter: that of [groups * d_out, d_in] but for what is merged.
        groups: independent maps.
    """

    transposed = False
    token_mode = ""
    geometry: ConvGeometry | None = None

    def __init__(
        self, d_in: int, d_out: int, weight_shape: tuple[int, ...], groups: int = 1
    ) -> None:
        super().__init__()
        self.d_in = d_in
        self.d_out = d_out
        self.groups = groups
        self.weight_shape = tuple(weight_shape)
        self.matrices = (groups, d_out, d_in)

    @property
    def matrix(self) -> tuple[int, int]:
        """[d_out, d_in]."""
        return self.d_out, self.d_in

    def samples(self, x: Tensor) -> int:
        """Number of samples N."""
        return x.shape[0]

    def positions(self, dout: Tensor) -> int:
        """Number of output positions T."""
        return dout.size // (dout.shape[0] * self.groups * self.d_out)

    def output_columns(self, dout: Tensor) -> Tensor:
        """G as [N, groups, d_out, T], from the gradient of the mean loss."""
        return MUL(self.output_positions(dout), samples_of(dout.shape))

    def position_columns(self, weights: Tensor) -> Tensor:
        """Not asked for where ``token_mode`` is empty."""
        return weights

    def input_units(self) -> int:
        """How many parts the input columns can be made in: input features, or groups."""
        return self.d_in if self.groups == 1 else self.groups

    def part_of_columns(self, x: Tensor, start: int, stop: int) -> Tensor:
        """The input columns of features start..stop alone; of groups where there are several."""
        return part_or_all(self.input_columns(x), start, stop - start, 2 if self.groups == 1 else 1)

    def add_bias(self, out: Tensor, bias: Tensor) -> Tensor:
        """The layer's bias added to its output, whose last axis are the features."""
        return out + bias

    def to_matrix(self, gradient: Tensor) -> Tensor:
        """A weight-shaped tensor as [groups, d_out, d_in]."""
        return self._turned(gradient) if self.transposed else gradient.reshape(self.matrices)

    def _turned(self, gradient: Tensor) -> Tensor:
        return TRANSPOSE(gradient.reshape((self.groups, self.d_in, self.d_out)), (0, 2, 1))

    def from_matrix(self, matrix: Tensor) -> Tensor:
        """The inverse of :meth:`to_matrix`."""
        turned = TRANSPOSE(matrix, (0, 2, 1)) if self.transposed else matrix
        return turned.reshape(self.weight_shape)
