"""What is written into an optimizer or a step between two steps holds from the next one on."""

from __future__ import annotations

from typing import Any, Callable

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops
from mindspore.dataset import NumpySlicesDataset
from oracle.bridge import randomise
from oracle.training import cross_entropy

from mindspore_thor import KFAC, THOR, TrainStep
from mindspore_thor.errors import UserError
from mindspore_thor.methods.adamw import AdamW

RNG = np.random.default_rng(3)
X = RNG.standard_normal((8, 5)).astype(np.float32)
LABELS = RNG.integers(0, 3, 8).astype(np.int32)


def small() -> nn.Cell:
    """The same network, whenever it is called."""
    return randomise(nn.SequentialCell(nn.Dense(5, 4, activation="relu"), nn.Dense(4, 3)), 2)


def weights(net: nn.Cell) -> list[np.ndarray]:
    return [p.asnumpy().copy() for p in net.get_parameters()]


def named(values: dict[str, Any]) -> dict[str, Parameter]:
    return {name: Parameter(Tensor(value), name=name) for name, value in values.items()}


def same(left: list[np.ndarray], right: list[np.ndarray]) -> None:
    for a, b in zip(left, right):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


Write = Callable[[Parameter, np.ndarray], Any]
ASSIGN: Write = lambda parameter, value: ops.assign(parameter, Tensor(value))  # noqa: E731
WAYS: tuple[Write, ...] = (
    lambda parameter, value: parameter.set_data(Tensor(value)),
    lambda parameter, value: parameter.assign_value(Tensor(value)),
    ASSIGN,
)


def loaded_alone(optimizer: nn.Optimizer) -> Write:
    """By a checkpoint of the whole optimizer: MindSpore guesses at what a partial one lacks."""

    def write(parameter: Parameter, value: np.ndarray) -> None:
        old = {p.name: p.asnumpy() for p in optimizer.get_parameters()}
        ms.load_param_into_net(optimizer, named({**old, parameter.name: value}))

    return write


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_as_if_written_in_place_into_mindspores_own_cell(name: str) -> None:
    """``nn.TrainOneStepCell`` is one graph; what ``ops.assign`` writes it always sees."""
    runs = []
    for own in (True, False):
        net = small()
        if name == "momentum":
            optimizer: nn.Optimizer = nn.Momentum(net.trainable_params(), 0.1, 0.9)
            moment, step_number = optimizer.moments[0], optimizer.momentum
        else:
            optimizer = AdamW(net.trainable_params(), 0.1)
            moment, step_number = optimizer.first[0], optimizer.global_step
        if own:
            step = nn.TrainOneStepCell(nn.WithLossCell(net, cross_entropy()), optimizer).set_train()
            ways: tuple[Write, ...] = (ASSIGN,)
        else:
            step = TrainStep(net, cross_entropy(), optimizer)
            ways = (*WAYS, loaded_alone(optimizer))
        run = []
        # Each way meets each parameter, before the first step too: no common divisor.
        targets = [optimizer.learning_rate, moment, step_number, net[1].weight, net[0].bias]
        for k in range(20):
            target = targets[k % len(targets)]
            value = np.full(target.shape, 0.5 / (1 + k), target.asnumpy().dtype)
            ways[k % len(ways)](target, value)
            step(Tensor(X), Tensor(LABELS))
            run.append(weights(net))
            step(Tensor(X), Tensor(LABELS))
            run.append(weights(net))
        runs.append(run)
    for left, right in zip(*runs):
        same(left, right)
    assert len(step.whole.compile_cache) == 1, "nothing is compiled again"


def test_a_rate_set_between_steps_is_that_of_a_list() -> None:
    """Second order, with steps of every kind; the list is the undisturbed run."""
    rates = [0.1, 0.1, 0.02, 0.02, 0.05, 0.0]
    runs = []
    for listed in (True, False):
        net = small()
        optimizer = THOR(
            net, rates if listed else 0.1, factor_interval=2, inverse_interval=3, momentum=0.5
        )
        step = TrainStep(net, cross_entropy(), optimizer)
        run = []
        for rate in rates:
            if not listed:
                optimizer.learning_rate.set_data(Tensor(rate, ms.float32))
            step(Tensor(X), Tensor(LABELS))
            run.append(weights(net))
        runs.append(run)
    for left, right in zip(*runs):
        same(left, right)
    # Loaded into the optimizer alone, a state gives the same three steps once more.
    state = {p.name: p.asnumpy().copy() for p in optimizer.get_parameters()}
    again = []
    for _ in range(2):
        ms.load_param_into_net(optimizer, named({**state, "learning_rate": np.float32(0.1)}))
        for _ in range(3):
            step(Tensor(X), Tensor(LABELS))
        again.append(weights(net))
    for a, b in zip(*again):
        np.testing.assert_array_equal(a, b)
    assert any((a != state[p.name]).any() for a, p in zip(again[0], net.get_parameters()))


def dropped(rate: float, step: int) -> float:
    return rate if step < 3 else 0.0625 * rate


@pytest.mark.parametrize(
    "callback",
    [
        lambda: ms.LearningRateScheduler(dropped),
        lambda: ms.ReduceLROnPlateau("loss", factor=0.25, patience=1, mode="min", min_delta=10.0),
    ],
    ids=["LearningRateScheduler", "ReduceLROnPlateau"],
)
def test_callbacks_that_set_the_rate(callback: Callable[[], ms.Callback]) -> None:
    runs = []
    for own in (False, True):
        net = small()
        optimizer = nn.Momentum(net.trainable_params(), 0.5, 0.9)
        data = NumpySlicesDataset({"x": X, "y": LABELS}, shuffle=False).batch(4)
        if own:
            model = ms.Model(net, cross_entropy(), optimizer)
        else:
            model = ms.Model(TrainStep(net, cross_entropy(), optimizer))
        model.train(4, data, callbacks=[callback()], dataset_sink_mode=False)
        runs.append([optimizer.learning_rate.asnumpy(), *weights(net)])
    assert runs[0][0] < 0.5
    same(*runs)


def test_what_graphs_cannot_follow_is_refused() -> None:
    net = small()
    optimizer = KFAC(net, 0.1)
    for name in ("momentum", "damping", "kl_clip", "factor_interval"):
        with pytest.raises(UserError, match=f"{name} of KFAC cannot be changed"):
            setattr(optimizer, name, 0.5)
    step = TrainStep(net, cross_entropy(), nn.Momentum(net.trainable_params(), 0.1, 0.9))
    step(Tensor(X), Tensor(LABELS))
    net[1].bias.assign_value(Tensor(np.zeros(5, np.float32)))
    with pytest.raises(UserError, match=r"1\.bias was Float32\[3\] and was set to Float32\[5\]"):
        step(Tensor(X), Tensor(LABELS))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    """Behind a ReLU the loss may be finite all the same."""
    for loaded in (False, True):
        net = small()
        step = TrainStep(net, cross_entropy(), nn.Momentum(net.trainable_params(), 0.1, 0.9))
        if loaded:
            step(Tensor(X), Tensor(LABELS))
        value = net[0].weight.asnumpy().copy()
        value[1, 2] = bad
        net[0].weight.set_data(Tensor(value))
        with pytest.raises(UserError, match=r"0\.weight has 1 NaN or infinite of 20 values"):
            step(Tensor(X), Tensor(LABELS))
