"""One network passes through another, or other people's training cells: two who share layers."""

from __future__ import annotations

import functools

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from oracle.bridge import randomise
from steps import same, weights

from mindspore_thor import FNGD, THOR, TrainStep

RNG = np.random.default_rng(11)
REAL = Tensor(RNG.standard_normal((6, 4)).astype(np.float32))
NOISE = Tensor(RNG.standard_normal((9, 3)).astype(np.float32))


class Judged(nn.Cell):
    """The discriminator's loss on a batch, minus for the generator's."""

    def __init__(self, discriminator: nn.Cell) -> None:
        super().__init__()
        self.discriminator = discriminator

    def construct(self, x):
        return ops.softplus(-self.discriminator(x)).mean()


class Made(nn.Cell):
    """The generator's loss, through the discriminator."""

    def __init__(self, generator: nn.Cell, judge: nn.Cell) -> None:
        super().__init__()
        self.generator = generator
        self.judge = judge

    def construct(self, noise):
        return self.judge(self.generator(noise))


def halves() -> tuple[nn.Cell, nn.Cell]:
    generator = nn.SequentialCell(nn.Dense(3, 5), nn.Tanh(), nn.Dense(5, 4))
    discriminator = nn.SequentialCell(nn.Dense(4, 5), nn.Tanh(), nn.Dense(5, 1))
    return randomise(generator, 1), randomise(discriminator, 2)


def of_generator(made: nn.Cell, name: str) -> nn.Cell:
    own = made.generator.trainable_params()
    if name == "momentum":
        return nn.Momentum(own, 0.1, 0.9)
    return THOR(made, 0.1, params=own)


@functools.cache
def two_steps_alone() -> list[np.ndarray]:
    """The weights of a discriminator that steps twice and never hears of a generator."""
    alone = halves()[1]
    judge = Judged(alone)
    step = TrainStep(judge, None, FNGD(judge, 0.1, steps_per_epoch=2))
    step(REAL)
    step(REAL)
    return weights(alone)


@pytest.mark.parametrize("first", ["momentum", "thor"])
def test_a_discriminator_is_plain_in_the_generators_step(first: str) -> None:
    """Both step as if they were alone, whatever the size of the other's batches."""
    generator, discriminator = halves()
    judge = Judged(discriminator)
    inner = TrainStep(judge, None, FNGD(judge, 0.1, steps_per_epoch=2))
    made = Made(generator, judge)
    outer = TrainStep(made, None, of_generator(made, first))
    inner(REAL)
    middle = [Tensor(w) for w in weights(discriminator)]
    outer(NOISE)
    inner(REAL)
    same(weights(discriminator), two_steps_alone())

    other, fixed = halves()
    for p, value in zip(fixed.get_parameters(), middle):
        p.set_data(value)
    made = Made(other, Judged(fixed))
    TrainStep(made, None, of_generator(made, first))(NOISE)
    same(weights(generator), weights(other))


class ScaledStep(nn.TrainOneStepWithLossScaleCell):
    """As trainers write it: unscale, clip by the global norm, add up, and apply every ``count``.

    ``count`` 1 applies at once.
    """

    def __init__(self, net, optimizer, scale, norm, count) -> None:
        super().__init__(net, optimizer, Tensor(scale, ms.float32))
        self.norm = norm
        self.count = count
        self.sums = optimizer.parameters.clone(prefix="sums", init="zeros")
        self.calls = ms.Parameter(Tensor(0, ms.int32), name="calls", requires_grad=False)

    def construct(self, *inputs):
        loss = self.network(*inputs)
        _, scale = self.start_overflow_check(loss, self.scale_sense)
        filled = ops.ones_like(loss) * ops.cast(scale, loss.dtype)
        gradients = self.grad(self.network, self.weights)(*inputs, filled)
        gradients = self.hyper_map(ops.partial(ops.mul, 1.0 / scale), gradients)
        gradients = ops.clip_by_global_norm(gradients, self.norm)
        gradients = self.grad_reducer(gradients)
        if self.count > 1:
            for i in range(len(gradients)):
                ops.assign_add(self.sums[i], gradients[i] / self.count)
            ops.assign_add(self.calls, Tensor(1, ms.int32))
            if self.calls % self.count == 0:
                self.optimizer(self.sums)
                for i in range(len(self.sums)):
                    ops.assign(self.sums[i], ops.zeros_like(self.sums[i]))
        else:
            loss = ops.depend(loss, self.optimizer(gradients))
        return loss


@pytest.mark.parametrize(
    ("scale", "norm", "count"),
    [(1.0, 1e4, 2), (1024.0, 1e4, 1), (1.0, 1e-3, 2)],
    ids=["added up", "scaled", "clipped and added up"],
)
def test_other_trainers_train_rightly_or_refuse(scale: float, norm: float, count: int) -> None:
    """A step of TrainStep, or one line and untouched weights."""
    halves_of = [Tensor(REAL.asnumpy()[:3]), Tensor(REAL.asnumpy()[3:])]
    net = Judged(halves()[1])
    before = weights(net)
    step = ScaledStep(net, THOR(net, 0.1), scale, norm, count)
    if scale == 1.0 and norm > 1:
        for batch in halves_of:
            step(batch)
        twin = Judged(halves()[1])
        accumulated = TrainStep(twin, None, THOR(twin, 0.1), accumulate=count)
        for batch in halves_of:
            accumulated(batch)
        assert any((a != b).any() for a, b in zip(weights(twin), before))
        same(weights(net)[: len(before)], weights(twin), 1e-5)
        return
    with pytest.raises(ValueError, match=r"altered .* train with mindspore_thor"):
        for batch in halves_of[:count]:
            step(batch)
    same(weights(net)[: len(before)], before)
