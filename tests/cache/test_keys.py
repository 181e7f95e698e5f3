"""What is in a graph's key; nothing is compiled."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from typing import Any, Callable

import mindspore as ms
import numpy as np
import pytest
import steps
from mindspore import Parameter, Tensor, nn, ops
from oracle.nets import mlp

from mindspore_thor import FNGD, THOR, DynamicLossScale, TrainStep
from mindspore_thor.cache import compile_cache, sources
from mindspore_thor.cache.compile_cache import key_of
from mindspore_thor.cache.fingerprint import Unknown
from mindspore_thor.methods import CLASSES

FACTOR = 2.0


@pytest.fixture(autouse=True, scope="module")
def _package_is_read_once() -> Iterator[None]:
    """Its sources do not change here, and are a third of a key's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "package_digest", functools.cache(sources.package_digest))
        yield


def _keys(step: TrainStep) -> list[str]:
    x, labels = Tensor(np.zeros((4, 3), np.float32)), Tensor(np.zeros(4, np.int32))
    return [key_of(graph, (x, labels)) for graph in step._graphs]


def _all_differ(first: list[str], second: list[str]) -> bool:
    assert len(first) == len(second)
    return not set(first) & set(second)


class Falling(nn.Cell):
    def construct(self, step: Tensor) -> Tensor:
        return 1.0 / (1.0 + step)


OTHERS: dict[str, Any] = {
    "damping": 0.031,
    "momentum": 0.55,
    "weight_decay": 0.07,
    "factor_interval": 7,
    "inverse_interval": 9,
    "params": "all but the last",
    "decay_filter": lambda parameter: len(parameter.shape) == 1,
    "loss_scale": 4.0,
    "clip_norm": 0.7,
    "kl_clip": 0.3,
    "token_mode": "reduce",
    "max_failures": 3,
    "inverse_share": "all",
    "split_dim": 3,
    "trace_thresholds": (0.02, 0.0),
    "damping_mode": {"sqrt": "pi", "pi": "sqrt"},
    "trace_form": "product",
    "trace_baseline": "previous",
    "batch_size": 5,
    "method": "inverse",
    "rest": {None: "adamw", "adamw": None},
    "rest_learning_rate": 0.05,
    "rest_betas": (0.8, 0.95),
    "rest_weight_decay": 0.2,
    "grafting": "sgd",
    "exclude": {None: "last", "last": None},
    "share": "last",
    "steps_per_epoch": 4,
    "sampling": "analytic",
    "gradients": "true",
    "fisher": "batch",
    "rate_samples": 3,
    "betas": (0.9, 0.99),
    "shampoo_beta": 0.8,
}

RUN_TIME = {(THOR, "batch_size")}
"""What a step finds out by itself, and writes into a parameter."""

NEEDED: dict[type, dict[str, Any]] = {FNGD: {"steps_per_epoch": 3}}


def _options(cls: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, parameter in cls.keywords().items():
        if name in ("net", "learning_rate"):
            continue
        if name in OTHERS:
            other = OTHERS[name]
            yield name, {name: other[parameter.default] if isinstance(other, dict) else other}
        elif isinstance(parameter.default, bool):
            yield name, {name: not parameter.default}
        elif isinstance(parameter.default, float):
            yield name, {name: parameter.default * 0.9}
        elif isinstance(parameter.default, int):
            yield name, {name: parameter.default + 1}
        else:
            pytest.fail(f"another value for {cls.__name__}'s {name} is missing here")


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_every_option_of_an_optimizer_is_in_all_keys(cls: Any) -> None:
    def keys(rate: Any = 0.1, **options: Any) -> list[str]:
        net, *_ = mlp()
        if "params" in options:
            options["params"] = net.trainable_params()[:-1]
        loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
        options = {**NEEDED.get(cls, {}), **options}
        return _keys(TrainStep(net, loss, cls(net, rate, **options)))

    plain = keys()
    assert keys() == plain
    assert keys(rate=0.2) == plain  # a parameter: read when the graph runs
    if "damping" in cls.keywords():
        assert _all_differ(keys(damping=Falling()), plain)
    for name, options in _options(cls):
        if (cls, name) in RUN_TIME:
            assert keys(**options) == plain
        elif name == "momentum_first":
            first = {"rest": "adamw", "grafting": "adamw", "momentum": 0.9}
            assert _all_differ(keys(**first, **options), keys(**first)), name
        elif name.startswith("rest_"):
            assert _all_differ(keys(rest="adamw", **options), keys(rest="adamw")), name
        else:
            assert _all_differ(keys(**options), plain), name
    rests = [keys(rest="adamw", rest_learning_rate=rate) for rate in (0.05, 0.06, [0.05, 0.06])]
    assert rests[0] == rests[1] and _all_differ(rests[0], rests[2])
    assert _all_differ(keys(grafting="sgd"), keys(grafting="adamw"))


def test_every_option_of_the_step_is_in_all_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(loss: Any = None, **options: Any) -> TrainStep:
        net, *_ = mlp()
        loss = loss or nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
        return TrainStep(net, loss, steps.thor(net), **options)

    plain = step()
    keys = _keys(plain)
    assert len(set(keys)) == len(keys)  # each graph of a step has its own
    micro = [step(accumulate=count).micro for count in (2, 3)]
    for name in ("plain", "capture", "finish", "enter"):
        assert len({key_of(getattr(each, name), ()) for each in micro}) == 2
    inputs = (Tensor(np.zeros((4, 3), np.float32)), Tensor(np.zeros(4, np.int32)))
    losses = [plain.loss_fn, *(nn.CrossEntropyLoss(label_smoothing=x) for x in (0.0, 0.1))]
    passes = [
        key_of(graph, inputs)
        for each in map(step, losses)
        for graph in (each.plain, each.capture, each.whole)
    ]
    assert len(set(passes)) == 9
    scales = [DynamicLossScale(), DynamicLossScale(factor=4.0), DynamicLossScale(window=9)]
    scaled = [_keys(step(loss_scale=scale)) for scale in scales]
    # The refresh knows of no loss scale; the factor and the window are the update's alone.
    assert len({keys[0] for keys in (keys, *scaled)}) == 4
    assert scaled[0] == _keys(step(loss_scale=DynamicLossScale(initial=2.0)))  # a parameter
    x, labels = np.zeros((4, 3), np.float32), np.zeros(4, np.int32)
    others = [(x[:3], labels[:3]), (x.astype(np.float16), labels), (x, labels.astype(np.int64))]
    for other in [*others, (x[None], labels), (x,)]:
        assert key_of(plain.whole, tuple(map(Tensor, other))) not in keys
    first, second = ((Tensor(x), Tensor(labels), value) for value in (1.5, 2.5))
    assert key_of(plain.whole, first) != key_of(plain.whole, second)
    tuples = [(Tensor(x), (Tensor(labels + i),)) for i in range(2)]
    assert key_of(plain.whole, tuples[0]) != key_of(plain.whole, tuples[1])  # constants
    mutable = [tuple(map(ms.mutable, pair[1:])) for pair in tuples]
    assert key_of(plain.whole, mutable[0]) == key_of(plain.whole, mutable[1])
    plain.net.set_train(False)
    assert _all_differ(keys, _keys(plain))
    plain.net.set_train(True)
    plain.net[0].set_train(False)
    assert _all_differ(keys, _keys(plain))
    plain.net[0].set_train(True)
    assert _keys(plain) == keys
    for parameter in plain.get_parameters():
        ops.assign(parameter, parameter + ops.ones_like(parameter))
    assert _keys(plain) == keys  # values of parameters are read when the graph runs
    monkeypatch.setenv("MS_DEV_ANYTHING", "1")
    assert _all_differ(keys, _keys(plain))
    monkeypatch.delenv("MS_DEV_ANYTHING")
    seed = ms.get_seed()
    monkeypatch.setattr(compile_cache._seeds, "_GLOBAL_SEED", (seed or 0) + 1)
    assert _all_differ(keys, _keys(plain))
    monkeypatch.undo()
    monkeypatch.setattr("mindspore_thor.optim.base.RETRY_DAMPING", 3.0)
    assert _all_differ(keys, _keys(plain))


class Scaled(nn.Cell):
    power = 2

    def __init__(self, factor: Any = 1.0, width: int = 2, kind: Any = ms.float32) -> None:
        super().__init__()
        self.factor = factor
        self.weight = Parameter(Tensor(np.ones(width), kind), name="weight")

    def helper(self, x: Tensor) -> Tensor:
        return x

    def construct(self, x: Tensor) -> Tensor:
        return self.helper(x) * self.weight.sum() * FACTOR**self.power


class Subclass(Scaled):
    power = 3


class Replaced(Scaled):
    def helper(self, x: Tensor) -> Tensor:
        return x + 1


def _with(change: Callable[[Scaled], Any]) -> Callable[[], nn.Cell]:
    def make() -> nn.Cell:
        cell = Scaled()
        change(cell)
        return cell

    return make


def _times(factor: float) -> Callable[[Tensor], Tensor]:
    def scaled(x: Tensor) -> Tensor:
        return x * factor

    return scaled


def _constant(value: float) -> Any:
    @ops.constexpr
    def constant() -> float:
        return value

    return constant


def _frozen(cell: Scaled) -> None:
    cell.weight.requires_grad = False


NETS: list[Callable[[], nn.Cell]] = [
    Scaled,
    Subclass,
    Replaced,
    *(lambda value=value: Scaled(value) for value in (  # type: ignore[misc]
        2.0, 2, "2.0", True, None, (1.0, 2.0), [1.0, 2.0], (1.0, (2.0,)), {"a": 1.0}, {"b": 1.0},
        -0.0, 0.0, float("nan"), ms.float16, ms.float32,
        np.float32(2.0), np.array([1.0, 2.0]), np.array([1.0, 3.0]), np.array([1, 2]),
    )),
    *(lambda value=value: Scaled(Tensor(value)) for value in (  # type: ignore[misc]
        np.array([1.0, 2.0]), np.array([1.0, 3.0]), np.array([[1.0, 2.0]]), np.array([1, 2]),
    )),
    *(lambda value=value: Scaled(_times(value)) for value in (1.0, 2.0)),  # type: ignore[misc]
    *(lambda value=value: Scaled(_constant(value)) for value in (1.0, 2.0)),  # type: ignore[misc]
    *(lambda value=value: Scaled(ops.Softmax(value)) for value in (0, 1)),  # type: ignore[misc]
    lambda: Scaled(nn.Dropout(p=0.1)),
    lambda: Scaled(nn.Dropout(p=0.2)),
    lambda: Scaled(width=3),
    lambda: Scaled(kind=ms.float16),
    _with(_frozen),
    _with(lambda cell: setattr(cell.weight, "name", "other")),
    _with(lambda cell: setattr(cell, "construct", _times(3.0))),
    _with(lambda cell: cell.to_float(ms.float16)),
    _with(lambda cell: cell.add_flags(anything=True)),
    _with(lambda cell: cell.recompute()),
    _with(lambda cell: cell.register_forward_hook(lambda *_: None)),
    lambda: nn.SequentialCell(Scaled(), Scaled(width=3)),
]  # fmt: skip


def test_what_is_constant_in_a_net_is_in_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    x = (Tensor(np.zeros(2, np.float32)),)

    def key(make: Callable[[], nn.Cell]) -> str:
        ms.set_seed(1)  # also forgets how many random layers there were: part of the key
        return key_of(make(), x)

    keys = [key(make) for make in NETS]
    assert len(set(keys)) == len(keys), [keys.index(key) for key in keys]
    assert [key(make) for make in NETS] == keys
    plain = keys[0]
    shared = Scaled()
    assert key_of(nn.SequentialCell(shared, shared), x) != key_of(nn.SequentialCell(shared), x)
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 3.0)
    changed = key_of(Scaled(), x)
    monkeypatch.undo()
    monkeypatch.setattr(Scaled, "power", 5)
    assert len({plain, changed, key_of(Scaled(), x)}) == 3
    monkeypatch.undo()
    monkeypatch.setattr(nn.Dense, "construct", Scaled.construct)
    patched = key_of(nn.Dense(2, 2), x)
    monkeypatch.undo()
    assert patched != key_of(nn.Dense(2, 2), x)


class Reporting(nn.Cell):
    """A net as people write them: MindSpore compiles no import, so no graph holds ``report``."""

    def report(self) -> str:
        import json

        return json.dumps(len(self.trainable_params()))

    def construct(self, x: Tensor) -> Tensor:
        return x * 2.0


class Reporting2(Reporting):
    def report(self) -> str:
        import json

        return json.dumps("another")


class Property(Reporting):
    """A property runs in Python while a graph is compiled."""

    @property
    def text(self) -> str:
        return self.report()


class ByName(Reporting):
    def construct(self, x: Tensor) -> Tensor:
        return x * getattr(self, "report")()  # noqa: B009 (a text may name it)


def test_a_method_with_an_import_matters_where_something_compiled_names_it() -> None:
    keys = [key_of(kind(), ()) for kind in (Reporting, Reporting2)]
    assert len(set(keys)) == 2 and key_of(Reporting(), ()) == keys[0]
    for kind in (Property, ByName):
        with pytest.raises(Unknown, match="report, which looks things up"):
            key_of(kind(), ())


class OwnTable(nn.Embedding):
    """Might use what it began with."""


def test_the_values_that_a_table_began_with_are_no_constants() -> None:
    tables = [np.full((3, 2), value, np.float32) for value in (1.0, 2.0)]

    def keys(kind: type) -> set[str]:
        return {key_of(kind(3, 2, embedding_table=Tensor(table)), ()) for table in tables}

    assert len(keys(nn.Embedding)) == 1
    assert len(keys(OwnTable)) == 2


def _importing(x: Tensor) -> Tensor:
    import math

    return x * math.pi


def _reading(x: Tensor) -> Tensor:
    return x * float(os.environ["FACTOR"])


def _drawing(x: Tensor) -> Tensor:
    return x * float(np.random.rand())


class Opaque:
    """Its class says nothing of what it holds."""


@pytest.mark.parametrize(
    "value",
    [
        Opaque(),
        iter([1]),
        _importing,
        _reading,
        _drawing,
        {Opaque()},
        np.array([None]),
        (x for x in "a"),
    ],
    ids=["object", "iterator", "import", "environment", "random", "set", "array", "generator"],
)
def test_what_cannot_be_digested_has_no_key(value: Any) -> None:
    with pytest.raises(Unknown):
        key_of(Scaled(value), ())
    with pytest.raises(Unknown):
        key_of(Scaled(), (Scaled().weight,))
