"""What people do in training code of their own: the step is the right one, or one line says why."""

from __future__ import annotations

import functools
from collections.abc import Callable

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from oracle.bridge import randomise
from oracle.nets import mlp
from oracle.training import cross_entropy
from steps import same, weights

from mindspore_thor import EKFAC, FNGD, KFAC, LNGD, THOR, TKFAC, Eva, Shampoo, TrainStep, UserError

RNG = np.random.default_rng(5)
X = Tensor(RNG.standard_normal((8, 5)).astype(np.float32))
Y = Tensor((np.arange(8) % 3).astype(np.int32))
PLAIN = {"momentum": 0.0}
METHODS = {
    "thor": lambda net, **o: THOR(net, 1.0, split_dim=3, **PLAIN, **o),
    "kfac": lambda net, **o: KFAC(net, 1.0, kl_clip=None, **PLAIN, **o),
    "kfac inverse": lambda net, **o: KFAC(net, 1.0, kl_clip=None, method="inverse", **PLAIN, **o),
    "ekfac": lambda net, **o: EKFAC(net, 1.0, **PLAIN, **o),
    "tkfac": lambda net, **o: TKFAC(net, 1.0, **PLAIN, **o),
    "eva": lambda net, **o: Eva(net, 1.0, kl_clip=None, **PLAIN, **o),
    "fngd": lambda net, **o: FNGD(net, 1.0, steps_per_epoch=1, batch_size=8, **PLAIN, **o),
    "lngd": lambda net, **o: LNGD(net, 1.0, **PLAIN, **o),
    "shampoo": lambda net, **o: Shampoo(net, 1.0, **PLAIN, **o),
}


def gradient_function(net: nn.Cell) -> Callable[..., dict[str, np.ndarray]]:
    """MindSpore's gradients of the mean cross entropy, by parameter name, as a function of inputs.

    Compiled once, for whatever weights the net has when it is called.
    """
    loss_fn = cross_entropy()

    def loss(*batch):
        return loss_fn(net(*batch[:-1]), batch[-1])

    parameters = net.trainable_params()
    function = ms.value_and_grad(loss, None, ms.ParameterTuple(parameters))

    def gradients(*inputs):
        return {p.name: g.asnumpy() for p, g in zip(parameters, function(*inputs)[1])}

    return gradients


def moved(net: nn.Cell, before: list[np.ndarray]) -> dict[str, np.ndarray]:
    """What a step with rate 1 took away from every parameter."""
    return {p.name: old - p.asnumpy() for p, old in zip(net.get_parameters(), before)}


# -- statistics in other people's training cells


NORM = 5.0
"""What a loop clips at: gradients have a norm of 1.6, its statistics (N = 8 is in them) more."""


class Loop(nn.Cell):
    """A training cell as people write it: unscale by 1 / s, then clip by the global norm."""

    def __init__(self, net: nn.Cell, optimizer: nn.Optimizer) -> None:
        super().__init__(auto_prefix=False)
        self.net = nn.WithLossCell(net, cross_entropy())
        self.optimizer = optimizer
        self.weights = optimizer.parameters
        self.gradient = ops.GradOperation(get_by_list=True, sens_param=True)
        self.map = ops.HyperMap()

    def construct(self, x, y, s):
        loss = self.net(x, y)
        gradients = self.gradient(self.net, self.weights)(x, y, s)
        gradients = self.map(ops.partial(ops.mul, 1.0 / s), gradients)
        gradients = ops.clip_by_global_norm(gradients, NORM)
        return ops.depend(loss, self.optimizer(gradients))


class Kept:
    """A loop over a net of its own, compiled once, and all its state at the start."""

    def __init__(self, name: str) -> None:
        self.net, _, _ = mlp()
        self.loop = Loop(self.net, METHODS[name](self.net))
        self.start = {k: p.asnumpy().copy() for k, p in self.loop.parameters_dict().items()}

    def step(self, scale: float, x: Tensor) -> None:
        """One step from the start; scale and inputs are run-time values."""
        for k, p in self.loop.parameters_dict().items():
            ops.assign(p, Tensor(self.start[k]))  # set_data would detach it from the graph
        self.loop(x, Y, Tensor(scale, ms.float32))


LOOPS: dict[tuple[str, int], Kept] = {}
"""By method and mode."""


def loop_of(name: str) -> Kept:
    key = name, ms.get_context("mode")
    if key not in LOOPS:
        LOOPS[key] = Kept(name)
    return LOOPS[key]


def looped(name: str) -> list[np.ndarray]:
    """The weights after one step that alters nothing."""
    kept = loop_of(name)
    kept.step(1.0, X)
    return weights(kept.net)


@functools.cache
def stepped(name: str) -> list[np.ndarray]:
    """The weights after one ``TrainStep`` of a method; called in graph mode."""
    net, _, _ = mlp()
    TrainStep(net, cross_entropy(), METHODS[name](net))(X, Y)
    return weights(net)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("thor", ms.GRAPH_MODE),
        ("fngd", ms.GRAPH_MODE),
        ("thor", ms.PYNATIVE_MODE),
        ("kfac inverse", ms.PYNATIVE_MODE),
        ("fngd", ms.PYNATIVE_MODE),
    ],
)
def test_a_clip_that_does_nothing_does_nothing(name, mode) -> None:
    """The statistics are no part of the norm that is clipped, however large they are."""
    expected = stepped(name)
    ms.set_context(mode=mode)
    same(looped(name), expected, 1e-5)


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
@pytest.mark.parametrize(
    ("name", "scale", "x"),
    # Inputs a hundred times as large have gradients whose norm is above NORM.
    [
        ("thor", 1024.0, X),
        ("eva", 1000.0, X),
        ("eva", 2.0**24, X),
        ("eva", 1.0, 100 * X),
    ],
    ids=["scaled", "scaled by no power of two", "MindSpore's first scale", "clipped"],
)
def test_altered_statistics_are_refused(name, scale, x, mode) -> None:
    """One place refuses for all methods; Eva's graph, of which each case needs one, is small."""
    ms.set_context(mode=mode)
    kept = loop_of(name)
    del LOOPS[name, mode]  # a graph that has raised does not run again
    with pytest.raises(ValueError, match="TrainStep"):
        kept.step(scale, x)
    same(weights(kept.net), weights(mlp()[0]))


def test_micro_batches_that_are_averaged_count_as_one() -> None:
    """The mean of the statistics of two equal micro-batches is that of each of them."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    net, _, _ = mlp()
    optimizer = METHODS["kfac inverse"](net)
    loss_fn = cross_entropy()

    def loss(x, y):
        return loss_fn(net(x), y)

    gradient = ms.value_and_grad(loss, None, optimizer.parameters)
    sums = [a + b for a, b in zip(gradient(X, Y)[1], gradient(X, Y)[1])]
    optimizer(tuple(0.5 * g for g in sums))
    same(weights(net), looped("kfac inverse"), 1e-6)


# -- layers without statistics


class Optional_(nn.Cell):
    """Its layer ``late`` is used in the graphs that are compiled while ``use`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Dense(5, 4, activation="tanh")
        self.late = nn.Dense(4, 4)
        self.use = False

    def construct(self, x):
        h = self.first(x)
        if self.use:
            h = h + self.late(h)
        return h


@pytest.fixture(scope="module")
def late_gradients() -> Callable[[nn.Cell], dict[str, np.ndarray]]:
    """The plain gradients of a net of that kind in use, of a twin that is compiled once."""
    twin = Optional_()
    twin.use = True
    gradients = gradient_function(twin)

    def at_the_weights_of(net: nn.Cell) -> dict[str, np.ndarray]:
        for p, q in zip(twin.get_parameters(), net.get_parameters()):
            ops.assign(p, Tensor(q.asnumpy()))  # set_data would detach it from the graph
        return gradients(X, Y)

    return at_the_weights_of


@pytest.mark.parametrize("name", METHODS)
def test_a_layer_takes_the_plain_gradient_until_it_has_statistics(name, late_gradients) -> None:
    """It is used for the first time in a step that collects nothing."""
    net = randomise(Optional_(), 3)
    intervals = {} if name == "fngd" else {"factor_interval": 100, "inverse_interval": 100}
    optimizer = METHODS[name](net, **intervals)
    step = TrainStep(net, cross_entropy(), optimizer)
    if name == "lngd":  # whose plain graph belongs to the first step, too
        step.measure.compile_and_run(X, Y)
        step.renew.compile_and_run()
        optimizer.global_step.set_data(Tensor([1], ms.int32))
    else:
        step(X, Y)
    assert optimizer.failed_inversions == 0 and not optimizer.failures_in_a_row()
    report = {row.layer: row for row in optimizer.layer_report()}
    assert "no statistics yet" in report["late"].reason and not report["late"].covered
    assert report["first"].covered and not report["first"].reason.startswith("no")
    net.use = True
    expected = late_gradients(net)
    before = weights(net)
    step(X, Y)
    found = moved(net, before)
    size = np.abs(expected["late.weight"]).max()
    np.testing.assert_allclose(found["late.weight"], expected["late.weight"], atol=1e-5 * size)
    np.testing.assert_allclose(found["late.bias"], expected["late.bias"], atol=1e-5)


@pytest.mark.parametrize("name", ["kfac inverse", "thor", "eva"])
def test_a_first_batch_without_gradient_is_no_measurement(name) -> None:
    """The step behind it is the one that a new optimizer makes.

    The new one is the same step with all its state as at the start: for what it computes, nothing
    else counts (tests/run/test_resume.py).
    """

    class Weighted(nn.Cell):
        def __init__(self, net: nn.Cell) -> None:
            super().__init__()
            self.net = net
            self.loss = cross_entropy()

        def construct(self, x, y, weight):
            return self.loss(self.net(x), y) * weight

    net, _, _ = mlp()
    step = TrainStep(Weighted(net), None, METHODS[name](net))
    start = {k: p.asnumpy().copy() for k, p in step.parameters_dict().items()}
    results = []
    for first in ([0.0], []):
        for k, p in step.parameters_dict().items():
            ops.assign(p, Tensor(start[k]))  # set_data would detach it from the compiled graphs
        for weight in [*first, 1.0]:
            step(X, Y, Tensor(weight, ms.float32))
        results.append(weights(net))
    same(results[0], results[1], 1e-6)
    assert all((new != start[p.name]).any() for new, p in zip(results[1], net.get_parameters()))


# -- weights with other uses


class Tied(nn.Cell):
    """A language model whose output layer is its table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.fc = nn.Dense(4, 4)

    def head(self, h):
        return ops.matmul(h, self.table.embedding_table.T)

    def construct(self, ids):
        return self.head(self.fc(self.table(ids)))


def test_a_table_that_is_also_the_output_layer_keeps_its_plain_gradient() -> None:
    ids = Tensor(RNG.integers(0, 4, (8,)).astype(np.int32))
    net = randomise(Tied(), 2)
    expected = gradient_function(net)(ids, Y)["table.embedding_table"]
    optimizer = METHODS["thor"](net)
    report = {row.layer: row for row in optimizer.layer_report()}
    assert not report["table"].covered and "Tied" in report["table"].reason
    assert report["fc"].covered
    before = weights(net)
    TrainStep(net, cross_entropy(), optimizer)(ids, Y)
    found = moved(net, before)["table.embedding_table"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


class Lookups(nn.Cell):
    """Ids [N, 6] looked up in one go, or in two unequal parts."""

    def __init__(self, parts: tuple[int, ...]) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.fc = nn.Dense(24, 3)
        self.parts = parts

    def construct(self, ids):
        found = ()
        start = 0
        for width in self.parts:
            found += (self.table(ids[:, start : start + width]),)
            start = start + width
        return self.fc(ops.concat(found, 1).reshape((8, -1)))


def test_two_lookups_equal_one_of_all_ids() -> None:
    ids = Tensor(RNG.integers(0, 7, (8, 6)).astype(np.int32))
    results = []
    for parts in ((6,), (2, 4)):
        net = randomise(Lookups(parts), 4)
        TrainStep(net, cross_entropy(), METHODS["thor"](net))(ids, Y)
        results.append(weights(net))
    same(results[1], results[0], 1e-5)


# -- two optimizers


class Halves(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        # One shape, so one group for each optimizer: of one layer, and of two.
        self.a = nn.SequentialCell(nn.Dense(5, 5), nn.Tanh())
        self.b = nn.SequentialCell(nn.Dense(5, 5), nn.Tanh(), nn.Dense(5, 5))

    def construct(self, x):
        return self.b(self.a(x))


class OneGraph(nn.Cell):
    """Two steps, compiled as one."""

    def __init__(self, first: nn.Cell, second: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.first = first
        self.second = second

    def construct(self, x, y):
        loss = self.first(x, y)
        return ops.depend(self.second(x, y), loss)


@pytest.mark.parametrize(("first", "second"), [("thor", "kfac inverse"), ("eva", "eva")])
def test_two_optimizers_over_halves_step_as_if_alone(first, second) -> None:
    def steps_of(net: nn.Cell) -> list[nn.Cell]:
        makers = (METHODS[first], METHODS[second])
        halves = (net.a.trainable_params(), net.b.trainable_params())
        optimizers = [make(net, params=list(p)) for make, p in zip(makers, halves)]
        return [TrainStep(net, cross_entropy(), optimizer) for optimizer in optimizers]

    alone = randomise(Halves(), 1)
    for make, half in ((METHODS[first], alone.a), (METHODS[second], alone.b)):
        TrainStep(alone, cross_entropy(), make(alone, params=list(half.trainable_params())))(X, Y)
    apart = randomise(Halves(), 1)
    for step in steps_of(apart):
        step(X, Y)
    same(weights(apart), weights(alone))
    together = randomise(Halves(), 1)
    OneGraph(*steps_of(together))(X, Y)
    same(weights(together), weights(alone))


def test_an_optimizer_that_lost_its_layers_says_so() -> None:
    net = randomise(Halves(), 1)
    old = TrainStep(net, cross_entropy(), METHODS["thor"](net))
    new = TrainStep(net, cross_entropy(), METHODS["kfac"](net))
    before = weights(net)
    with pytest.raises(UserError, match=r"layer a\.0 of this THOR belongs to a KFAC"):
        old(X, Y)
    same(weights(net), before)
    assert np.isfinite(float(new(X, Y).asnumpy()))
