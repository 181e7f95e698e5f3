"""Networks with other inputs and outputs than (images) -> logits."""

from __future__ import annotations

from functools import partial
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from oracle.bridge import randomise

from mindspore_thor import THOR, TrainStep
from mindspore_thor.errors import UserError
from mindspore_thor.optim import FNGD, LNGD

RNG = np.random.default_rng(7)
BATCHES = [
    (
        Tensor(RNG.standard_normal((8, 6)).astype(np.float32)),
        Tensor(RNG.integers(0, 3, 8).astype(np.int32)),
    )
    for _ in range(3)
]


class Loss(nn.Cell):
    """Logits of two layers and their loss; what its inputs look like is the subclass's."""

    def __init__(self) -> None:
        super().__init__()
        self.f1 = nn.Dense(6, 5, activation="tanh")
        self.f2 = nn.Dense(5, 3)
        self.loss = nn.CrossEntropyLoss()

    def of(self, x: Tensor, label: Tensor) -> Tensor:
        return self.loss(self.f2(self.f1(x)), label)

    def construct(self, x: Tensor, label: Tensor) -> Tensor:
        return self.of(x, label)


class ScalarFirst(Loss):
    def construct(self, scale: Tensor, x: Tensor, label: Tensor) -> Tensor:
        return scale * self.of(x, label)


class Pair(Loss):
    def construct(self, batch: Any) -> Tensor:
        return self.of(batch[0], batch[1])


class Nested(Loss):
    def construct(self, batch: Any) -> Tensor:
        return batch["more"][0] * self.of(batch["x"], batch["more"][1])


class Optional(Loss):
    def construct(self, x: Tensor, mask: Any = None, label: Any = None) -> Tensor:
        if mask is not None:
            x = x * mask
        return self.of(x, label)


ONE = Tensor(1.0, ms.float32)
FORMS = [
    (ScalarFirst, lambda x, label: (ONE, x, label)),
    (Pair, lambda x, label: ((x, label),)),
    (Pair, lambda x, label: ([x, label],)),
    (Nested, lambda x, label: ({"more": (ONE, label), "x": x},)),
    (Optional, lambda x, label: (x, None, label)),
]


def values(net: nn.Cell) -> list[np.ndarray]:
    return [p.asnumpy().copy() for p in net.get_parameters()]


def optimizer_of(name: str, net: nn.Cell) -> nn.Optimizer:
    if name == "Momentum":
        return nn.Momentum(net.trainable_params(), 0.1, 0.9)
    return THOR(net, 0.1, momentum=0.0, factor_interval=2, inverse_interval=2)


@pytest.mark.parametrize("name", ["Momentum", pytest.param("THOR", marks=pytest.mark.slow)])
def test_the_form_of_the_inputs_makes_no_difference(name: str) -> None:
    net = randomise(Loss(), 3)
    if name == "Momentum":
        step = nn.TrainOneStepCell(net, optimizer_of(name, net)).set_train()
    else:
        step = TrainStep(net, None, optimizer_of(name, net))
    used = BATCHES if name == "Momentum" else BATCHES[:2]  # both graphs of THOR's steps
    losses = [float(step(*batch).asnumpy()) for batch in used]
    wanted = values(net)
    for form, inputs in FORMS if name == "Momentum" else FORMS[3:4]:
        net = randomise(form(), 3)
        step = TrainStep(net, None, optimizer_of(name, net))
        found = [float(step(*inputs(*batch)).asnumpy()) for batch in used]
        np.testing.assert_allclose(found, losses, rtol=1e-5)
        for a, b in zip(values(net), wanted):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    graphs = step.whole if name == "Momentum" else step.capture
    assert len(graphs.compile_cache) == 1, "no graph is made for another batch"


def test_a_micro_batch_in_a_tuple() -> None:
    runs = []
    for form in (Loss, Pair):
        net = randomise(form(), 3)
        step = TrainStep(net, None, optimizer_of("Momentum", net), accumulate=2)
        for batch in BATCHES[:2]:
            step(*batch) if form is Loss else step(batch)
        runs.append(values(net))
    for a, b in zip(*runs):
        np.testing.assert_allclose(a, b, rtol=1e-6)


class WithLogits(Loss):
    def construct(self, x: Tensor, label: Tensor) -> Any:
        return self.of(x, label), x


class PerSample(Loss):
    def construct(self, x: Tensor, label: Tensor) -> Tensor:
        return (self.f2(self.f1(x)) * label.reshape((-1, 1))).sum(1)


X, LABEL = BATCHES[0]
REFUSED = [
    (WithLogits, (X, LABEL), {}, r"the loss is a tuple.*output\[0\]"),
    (Loss, (X,), {"label": LABEL}, r"by position, not by name \(label\)"),
    (Loss, (X,), {}, r"called with 1 inputs; the network takes \(x, label\)"),
    (Loss, (X, LABEL, LABEL), {}, r"called with 3 inputs; the network takes \(x, label\)"),
    (Loss, (X.asnumpy(), LABEL), {}, r"input 0 is or has a NumPy array"),
    (Pair, ((X, LABEL.asnumpy()),), {}, r"input 0 is or has a NumPy array"),
    (Loss, (X,), {"z" * 5000: LABEL}, r"by position"),
]


@pytest.mark.parametrize("name", ["Momentum", "THOR"])
def test_one_line_for_what_cannot_train(name: str) -> None:
    cases = list(REFUSED)
    if name == "THOR":
        cases.append((PerSample, (X, LABEL), {}, r"the loss has the shape \(8,\).*mean"))
        cases.append((ScalarFirst, (ONE, ONE, ONE), {}, "no input of the step has a batch axis"))
    for form, inputs, keywords, message in cases:
        net = form()
        before = values(net)
        with pytest.raises(UserError, match=message) as caught:
            TrainStep(net, None, optimizer_of(name, net))(*inputs, **keywords)
        assert len(str(caught.value)) <= 300 and "\n" not in str(caught.value)
        for a, b in zip(values(net), before):
            np.testing.assert_array_equal(a, b)


def test_a_loss_per_sample_trains_as_in_mindspores_own_cell() -> None:
    """By the gradient of the sum, where no statistics depend on it."""
    runs = []
    for own in (True, False):
        net = randomise(PerSample(), 3)
        optimizer = optimizer_of("Momentum", net)
        if own:
            step = nn.TrainOneStepCell(net, optimizer).set_train()
        else:
            step = TrainStep(net, None, optimizer)
        runs.append([step(*batch).asnumpy() for batch in BATCHES] + values(net))
    for a, b in zip(*runs):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


class Normed(nn.Cell):
    """Weights, but no layer that a Kronecker method covers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def construct(self, x: Tensor) -> Tensor:
        return self.norm(x)


@pytest.mark.parametrize("method", [LNGD, partial(FNGD, share="none")], ids=["LNGD", "FNGD"])
def test_without_any_covered_layer_the_gradient_is_plain(method: Any) -> None:
    targets = Tensor(np.ones((8, 6), np.float32))
    runs = []
    for own in (True, False):
        net = randomise(Normed(), 1)
        if own:
            optimizer: nn.Optimizer = nn.Momentum(net.trainable_params(), 0.1, 0.9)
        else:
            optimizer = method(net, 0.1, momentum=0.9)
            assert not any(row.covered for row in optimizer.layer_report())
        step = TrainStep(net, nn.MSELoss(), optimizer)
        for x, _ in BATCHES:
            step(x, targets)
        runs.append(values(net))
    for a, b in zip(*runs):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "made",
    [lambda net: THOR(net, 0.1), lambda net: nn.Momentum(net.trainable_params(), 0.1, 0.9)],
    ids=["THOR", "Momentum"],
)
def test_an_optimizer_of_another_network_is_refused(made) -> None:
    net, other = (nn.SequentialCell(nn.Dense(6, 3)) for _ in range(2))
    with pytest.raises(UserError, match=r"no parameter of the .* is in this SequentialCell"):
        TrainStep(net, nn.CrossEntropyLoss(), made(other))


def test_a_loss_that_is_still_a_class_is_refused() -> None:
    net = nn.SequentialCell(nn.Dense(6, 3))
    with pytest.raises(UserError, match=r"is the class CrossEntropyLoss: .* CrossEntropyLoss\(\)"):
        TrainStep(net, nn.CrossEntropyLoss, THOR(net, 0.1))


def test_a_list_of_rates_that_is_too_short_is_one_line() -> None:
    net = nn.SequentialCell(nn.Dense(6, 3))
    step = TrainStep(net, nn.CrossEntropyLoss(), THOR(net, [0.1, 0.05]))
    for batch in BATCHES[:2]:
        step(*batch)
    before = net[0].weight.asnumpy().copy()
    with pytest.raises(UserError, match="learning_rate is a list of 2 and this is step 3"):
        step(*BATCHES[2])
    np.testing.assert_array_equal(net[0].weight.asnumpy(), before)
