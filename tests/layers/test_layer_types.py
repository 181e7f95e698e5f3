"""One row per layer type, one net with two of them beside their equals, and a type of a user's."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import steps
from mindspore import Parameter, Tensor, nn, ops
from oracle.bridge import Line, randomise
from oracle.optimizers import Thor
from oracle.training import cross_entropy
from places import ROOT
from steps import assert_close

from mindspore_thor import THOR, TrainStep, UserError
from mindspore_thor.graph.shared import one_of_each
from mindspore_thor.layers import Form, LayerType, LinearRows, register_layer_type
from mindspore_thor.layers.registry import layer_type_of
from mindspore_thor.methods import CLASSES

# -- a layer type from outside of the package, as docs/add_a_layer_type.md shows it ---------------


class InOut(nn.Cell):
    """y = x K + s with K [d_in, d_out], the other way round than in nn.Dense."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.kernel = Parameter(Tensor(np.zeros((d_in, d_out), np.float32)), name="kernel")
        self.shift = Parameter(Tensor(np.zeros(d_out, np.float32)), name="shift")
        self.product = ops.MatMul()
        self.add = ops.Add()

    def construct(self, x):
        return self.add(self.product(x, self.kernel), self.shift)


class InOutRows(LinearRows):
    """Its geometry: input [N, d_in], output [N, d_out]."""

    transposed = True

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__(d_in, d_out, (d_in, d_out))
        self.product = ops.MatMul()

    def apply(self, x, weight):
        return self.product(x, weight)

    def input_columns(self, x):
        return x.reshape((x.shape[0], 1, self.d_in, 1))

    def output_positions(self, out):
        return out.reshape((out.shape[0], 1, self.d_out, 1))


IN_OUT = register_layer_type(
    LayerType(
        InOut,
        rows=lambda make, cell, token_mode: make(InOutRows, *cell.kernel.shape),
        operator="product",
        weight="kernel",
        bias="shift",
        bias_operator="add",
    )
)


def test_the_guide_shows_this_code() -> None:
    guide = (ROOT / "docs" / "add_a_layer_type.md").read_text()
    example = guide.split("```python\n")[2].split("```")[0]
    lines = [line.split("  #")[0].rstrip() for line in example.splitlines()]
    own = set(Path(__file__).read_text().splitlines())
    assert "class InOutRows(LinearRows):" in lines
    assert [line for line in lines if line not in own] == []


# -- what every linear type has to fulfil ---------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "shape"),
    [
        (nn.Dense(5, 4), (3, 5)),
        (nn.Dense(5, 4), (3, 2, 5)),
        (nn.Conv2d(3, 4, (3, 2), (2, 1), "pad", (1, 0, 2, 1), has_bias=True), (2, 3, 7, 6)),
        (nn.Conv2d(4, 6, 3, 2, "same", group=2), (2, 4, 6, 5)),
        (nn.Conv1d(3, 4, 3, 2, "pad", 2, has_bias=True), (2, 3, 8)),
        (nn.Conv1d(4, 6, 2, 1, "same", dilation=3, group=2), (2, 4, 7)),
        (nn.Conv1d(2, 3, 4, 3, "valid"), (2, 2, 11)),
        (nn.Conv3d(2, 3, (2, 3, 1), (1, 2, 1), "pad", (1, 0, 2, 1, 0, 1), has_bias=True),
         (2, 2, 4, 5, 3)),
        (nn.Conv3d(2, 3, 2, (2, 1, 3), "same"), (1, 2, 5, 3, 4)),
        (nn.Conv3d(1, 2, 2, 1, "valid", dilation=(2, 1, 1)), (2, 1, 4, 3, 3)),
        (InOut(5, 4), (3, 5)),
    ],
)  # fmt: skip
def test_a_layer_is_its_weight_matrix_times_its_input_columns(cell, shape) -> None:
    """[N, groups, d_in, T] times [groups, d_out, d_in], plus the bias, is the layer's output."""
    ms.set_context(mode=ms.GRAPH_MODE)
    randomise(cell, 1)
    entry = layer_type_of(cell)
    rows = entry.rows(one_of_each(), cell, "share")
    x = Tensor(np.random.default_rng(2).standard_normal(shape).astype(np.float32))
    weight, bias = getattr(cell, entry.weight), getattr(cell, entry.bias)
    expected = cell(x)
    if isinstance(cell, nn.Conv1d):  # its operator works on images of height 1
        x, expected = x.expand_dims(2), expected.expand_dims(2)
    columns = rows.input_columns(x).asnumpy().astype(np.float64)
    matrix = rows.to_matrix(weight)
    assert columns.shape[:3] == (shape[0], rows.groups, rows.d_in)
    assert matrix.shape == (rows.groups, rows.d_out, rows.d_in)
    np.testing.assert_array_equal(rows.from_matrix(matrix).asnumpy(), weight.asnumpy())
    out = np.einsum("god,ngdt->ngot", matrix.asnumpy(), columns)
    if bias is not None:
        out = out + bias.asnumpy().reshape((1, rows.groups, rows.d_out, 1))
    got = rows.apply(x, weight)
    if bias is not None:
        got = rows.add_bias(got, bias)
    np.testing.assert_allclose(got.asnumpy(), expected.asnumpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(rows.output_positions(got).asnumpy(), out, rtol=1e-4, atol=1e-4)
    scaled = rows.output_positions(got).asnumpy() * shape[0]
    np.testing.assert_allclose(rows.output_columns(got).asnumpy(), scaled, rtol=1e-5)
    assert rows.positions(got) == columns.shape[3]
    assert rows.samples(x) == shape[0]
    axis = 1 if rows.groups > 1 else 2
    parts = [rows.part_of_columns(x, i, i + 1).asnumpy() for i in range(rows.input_units())]
    np.testing.assert_array_equal(np.concatenate(parts, axis), columns)


# -- what every method has to do with them --------------------------------------------------------


class Pair(nn.Cell):
    """A layer and beside it its equal of another type, each with logits of its own.

    Args:
        layer: gets random weights.
        equal: gets the same ones.
        view: a sample's shape for it.
        outputs: length of a sample's output.
    """

    def __init__(self, layer: nn.Cell, equal: nn.Cell, view: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.layer, self.equal = randomise(layer, 3), equal
        self.swapped = isinstance(layer, InOut)
        self.view = view
        for p, q in zip(layer.get_parameters(), equal.get_parameters()):
            value = p.asnumpy()
            value = value.T if self.swapped else value
            q.set_data(Tensor(value.reshape(q.shape).copy()))
        projection = np.random.default_rng(4).standard_normal((outputs, 3))
        self.projection = Tensor(projection.astype(np.float32))

    def construct(self, x):
        n = x.shape[0]
        first = self.layer(x)
        second = self.equal(x.reshape((n, *self.view)))
        logits = [
            ops.matmul(ops.tanh(y).reshape((n, -1)), self.projection) for y in (first, second)
        ]
        return ops.stack(logits, 1)


class EachLoss(nn.Cell):
    """The sum of the cross entropies of [N, 2, classes]."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = cross_entropy()

    def construct(self, logits, labels):
        return self.loss(logits[:, 0], labels) + self.loss(logits[:, 1], labels)


def conv_pair() -> Pair:
    """A Conv1d is a Conv2d on images of height 1."""
    line = nn.Conv1d(4, 6, 3, 2, "pad", 1, group=2, has_bias=True)
    image = nn.Conv2d(4, 6, (1, 3), (1, 2), "pad", (0, 0, 1, 1), 1, 2, True)
    return Pair(line, image, (4, 1, 9), 30)


def volume_pair() -> Pair:
    """A Conv3d as deep as its input is a Conv2d whose channels are all channels' layers."""
    volume = nn.Conv3d(2, 3, (3, 2, 2), (1, 2, 1), "pad", (0, 0, 1, 0, 0, 1), has_bias=True)
    image = nn.Conv2d(6, 3, 2, (2, 1), "pad", (1, 0, 0, 1), has_bias=True)
    return Pair(volume, image, (6, 4, 3), 18)


def in_out_pair() -> Pair:
    """An InOut is a Dense with its weight transposed."""
    return Pair(InOut(4, 5), nn.Dense(4, 5), (4,), 5)


OPTIONS = {
    # Samples are drawn by a layer's name: without drawing equal layers have equal factors.
    "LNGD": {"sampling": "analytic"},
    "FNGD": {"share": "none"},
    "Muon": {"exclude": None},  # its last layer would be AdamW's
}


@pytest.mark.parametrize(
    ("make", "shape", "method"),
    [(conv_pair, (7, 4, 9), method) for method in sorted(CLASSES)]
    + [(volume_pair, (7, 2, 3, 4, 3), method) for method in ("THOR", "FNGD")]
    # With the bias as a column of the matrix, and inside the backward pass in two ways.
    + [(in_out_pair, (7, 4), method) for method in ("Eva", "LNGD", "FNGD")],
)
def test_every_method_treats_a_layer_as_its_equal_of_another_type(make, shape, method) -> None:
    net = make()
    before = [p.asnumpy().copy() for p in net.get_parameters()]
    optimizer = CLASSES[method](net, 0.1, **OPTIONS.get(method, {}))
    step = TrainStep(net, EachLoss(), optimizer)
    rng = np.random.default_rng(5)
    x = rng.standard_normal(shape).astype(np.float32)
    labels = rng.integers(0, 3, 7).astype(np.int32)
    for _ in range(2):
        step(Tensor(x), Tensor(labels))
    assert [row.covered for row in optimizer.layer_report()] == [True] * 2
    assert optimizer.elsewhere == {}
    moved = [p.asnumpy() - old for p, old in zip(net.get_parameters(), before)]
    for found, expected in zip(moved[:2], moved[2:]):
        expected = (expected.T if net.swapped else expected).reshape(found.shape)
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_conv1d_against_the_oracle() -> None:
    """THOR's step in float64, on images of height 1."""
    net = nn.SequentialCell(
        Line(),
        nn.Conv1d(3, 4, 3, 2, "pad", 2, has_bias=True),
        nn.LeakyReLU(),
        nn.Conv1d(4, 6, 2, 1, "same", dilation=3, group=2),
        nn.Flatten(),
        nn.Dense(30, 3),
    )
    rng = np.random.default_rng(6)
    x = rng.standard_normal((6, 3, 1, 8)).astype(np.float32)
    problem = randomise(net, 6), x, rng.integers(0, 3, 6).astype(np.int32)
    errors, _, step = partial(steps.run, THOR, Thor)(problem, split_dim=4)
    assert_close(errors, 2e-5)
    assert [row.covered for row in step.optimizer.layer_report()] == [True] * 3


# -- entries ---------------------------------------------------------------------------------------


def test_the_nearest_class_counts_and_a_later_entry_takes_over() -> None:
    class Special(nn.Dense):
        """A Dense that is to be left alone."""

    class Child(Special):
        """Inherits that."""

    net = nn.SequentialCell(Special(3, 3), Child(3, 3), nn.Dense(3, 2))
    assert [row.covered for row in THOR(net, 0.1).layer_report()] == [True] * 3
    register_layer_type(
        LayerType(Special, form=Form.PLAIN, why_not=lambda cell: "left alone: plain gradient")
    )
    report = THOR(net, 0.1).layer_report()
    assert [row.covered for row in report] == [False, False, True]
    assert [row.reason for row in report][:2] == ["left alone: plain gradient"] * 2


def test_groups_of_a_conv3d_and_other_reasons() -> None:
    net = nn.SequentialCell(
        nn.Conv3d(2, 2, 2),
        nn.Conv3d(2, 2, 2, group=2),
        nn.Conv1dTranspose(2, 2, 2),
    )
    rows = THOR(net, 0.1).layer_report()
    assert [row.covered for row in rows] == [True, False, False]
    assert rows[1].reason == "groups of a Conv3d: plain gradient"
    assert rows[2].reason == "Conv1dTranspose: no rule for this layer type, plain gradient"


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        (lambda: nn.Dense, "LayerType"),
        (lambda: LayerType(int), "nn.Cell"),
        (lambda: LayerType("nn.Dense"), "nn.Cell"),
        (lambda: LayerType(InOut), "rows and operator"),
        (lambda: LayerType(InOut, IN_OUT.rows), "rows and operator"),
        (lambda: LayerType(InOut, form=Form.ELEMENTWISE), "operator"),
        (lambda: LayerType(InOut, IN_OUT.rows, "product", captured=nn.Dense), "subclass of InOut"),
    ],
)
def test_bad_entries_are_refused_in_one_line(entry, named) -> None:
    with pytest.raises(UserError, match=named) as error:
        register_layer_type(entry())
    assert "\n" not in str(error.value) and len(str(error.value)) <= 300
    assert layer_type_of(InOut(2, 2)) is IN_OUT


def test_an_entry_that_does_not_fit_its_layers_is_refused_in_one_line() -> None:
    class Mistaken(InOut):
        """An entry of its own names an operator that it does not have."""

    register_layer_type(LayerType(Mistaken, IN_OUT.rows, "prodct" * 99, weight="kernel"))
    with pytest.raises(UserError, match=r"Mistaken.*no operator 'prodct") as error:
        THOR(Mistaken(3, 2), 0.1)
    assert len(str(error.value)) <= 300
