"""Schedules against the formulas of the THOR paper in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
import pytest

from mindspore_thor.errors import UserError
from mindspore_thor.optim.inverse_sqrt import InverseSquareRoot, Noam
from mindspore_thor.optim.schedules import (
    SCHEDULES,
    ConstantSchedule,
    CosineDecay,
    ExponentialDecay,
    PolynomialDecay,
    StepDecay,
    WarmupPolynomialDecay,
    check_damping,
    create_schedule,
)

STEPS_PER_EPOCH = 39


def values(schedule: Any, steps: np.ndarray) -> np.ndarray:
    return schedule(ms.Tensor(steps, ms.int32)).asnumpy()


def polynomial(e: float) -> float:
    return 0.045 * max(0.0, 1 - e / 70) ** 6


def fractional_power(e: float) -> float:
    return 0.05803 * max(0.0, 1 - e / 53) ** 4.0839


def polynomial_to_an_end(e: float) -> float:
    return (0.007 - 0.001) * max(0.0, 1 - e / 70) ** 4 + 0.001


def warmup(e: float) -> float:
    if e <= 5:
        return 0.005 + (0.45 - 0.005) * e / 5
    return 0.45 * max(0.0, 1 - (e - 5) / 55) ** 6


def cosine(e: float) -> float:
    if e <= 3:
        return 0.01 + (0.1 - 0.01) * e / 3
    progress = min(1.0, (e - 3) / (20 - 3))
    return 0.002 + (0.1 - 0.002) * (1 + math.cos(math.pi * progress)) / 2


def plain_cosine(e: float) -> float:
    return 0.1 * (1 + math.cos(math.pi * min(1.0, e / 20))) / 2


def steps_down(e: float) -> float:
    # The update that ends epoch 4 (e == 4) still belongs to it.
    return 0.1 * 0.2 ** sum(e > milestone for milestone in (4, 7.5, 20))


def damping(e: float) -> float:
    return 0.03 * 0.87 ** (e / 10)


def inverse_sqrt(e: float) -> float:
    t = e * STEPS_PER_EPOCH
    return 0.005 * (t / 400 if t <= 400 else math.sqrt(400 / t))


def noam(e: float) -> float:
    """Vaswani et al. 2017, Eq 3, with a factor."""
    t = e * STEPS_PER_EPOCH
    return 2.0 * 512**-0.5 * min(t**-0.5, t * 900**-1.5)


CASES: list[tuple[Callable[[float], float], Any]] = [
    (polynomial, PolynomialDecay(0.045, 70, 6, STEPS_PER_EPOCH)),
    (fractional_power, PolynomialDecay(0.05803, 53, 4.0839, STEPS_PER_EPOCH)),
    (polynomial_to_an_end, PolynomialDecay(0.007, 70, 4, STEPS_PER_EPOCH, 0.001)),
    (warmup, WarmupPolynomialDecay(0.005, 0.45, 5, 55, 6, STEPS_PER_EPOCH)),
    (cosine, CosineDecay(0.1, 20, STEPS_PER_EPOCH, 0.002, 3, 0.01)),
    (plain_cosine, CosineDecay(0.1, 20, STEPS_PER_EPOCH)),
    (steps_down, StepDecay(0.1, [4, 7.5, 20], 0.2, STEPS_PER_EPOCH)),
    (damping, ExponentialDecay(0.03, 0.87, STEPS_PER_EPOCH)),
    (lambda e: 0.25, ConstantSchedule(0.25)),
    (inverse_sqrt, InverseSquareRoot(0.005, 400, STEPS_PER_EPOCH)),
    (noam, Noam(512, 900, 2.0)),
]


@pytest.mark.parametrize(("formula", "schedule"), CASES)
def test_every_step_follows_the_formula(formula: Callable[[float], float], schedule: Any) -> None:
    steps = np.arange(0, 90 * STEPS_PER_EPOCH)
    expected = np.array([formula((step + 1) / STEPS_PER_EPOCH) for step in steps])
    found = values(schedule, steps)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=5e-6, atol=1e-9)


def test_published_values_at_single_epochs() -> None:
    """Check T7: the first row of THOR's Table 3, at the last update of an epoch."""
    rate = PolynomialDecay(0.045, 70, 6, 5004)
    assert values(rate, np.array([35 * 5004 - 1]))[0] == pytest.approx(7.03125e-4, rel=1e-6)
    damp = ExponentialDecay(0.03, 0.87, 5004)
    assert values(damp, np.array([10 * 5004 - 1]))[0] == pytest.approx(0.0261, rel=1e-6)


def test_warm_up_is_continuous_at_its_end() -> None:
    steps_per_epoch = 100_000
    schedule = WarmupPolynomialDecay(0.01, 0.8, 5, 48, 6, steps_per_epoch)
    end = 5 * steps_per_epoch - 1
    before, at, after = values(schedule, np.array([end - 1, end, end + 1]))
    assert at == pytest.approx(0.8, rel=1e-6)
    assert abs(at - before) < 1e-5
    assert abs(after - at) < 1e-5


def test_the_global_step_of_an_optimizer_is_accepted() -> None:
    """MindSpore's optimizers hand over a step of shape [1] and reshape the result to a scalar."""
    for name, schedule in (("polynomial", CASES[0][1]), ("step", CASES[6][1])):
        assert schedule(ms.Tensor([3], ms.int32)).shape == (1,), name
        assert schedule(ms.Tensor(3, ms.int32)).shape == (), name


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: PolynomialDecay(-0.1, 10, 2, 5), "initial"),
        (lambda: PolynomialDecay(0.1, 0, 2, 5), "end_epoch"),
        (lambda: PolynomialDecay(0.1, 10, math.nan, 5), "power"),
        (lambda: PolynomialDecay(0.1, 10, 2, 0), "steps_per_epoch"),
        (lambda: PolynomialDecay("high", 10, 2, 5), "initial"),
        (lambda: PolynomialDecay(0.1, 10, 2, 5, -1e-6), "final"),
        (lambda: check_damping(PolynomialDecay(0.1, 10, 2, 5)), "damping: .* give final"),
        (lambda: WarmupPolynomialDecay(-1, 0.1, 5, 10, 2, 5), "warmup_initial"),
        (lambda: WarmupPolynomialDecay(0, 0.1, 0, 10, 2, 5), "warmup_epochs"),
        (lambda: CosineDecay(0.1, 5, 5, warmup_epochs=5), "warmup_epochs"),
        (lambda: StepDecay(0.1, [], 0.1, 5), "milestones"),
        (lambda: StepDecay(0.1, [7, 4], 0.1, 5), "milestones"),
        (lambda: StepDecay(0.1, [4], 0.0, 5), "factor"),
        (lambda: ExponentialDecay(0.03, 1.2, 5), "rho"),
        (lambda: ExponentialDecay(0.03, 0, 5), "rho"),
        (lambda: ExponentialDecay(-0.03, 0.5, 5), "initial"),
        (lambda: ConstantSchedule(True), "value"),
        (lambda: InverseSquareRoot(0.0, 400), "peak"),
        (lambda: InverseSquareRoot(0.1, 0), "warmup_steps"),
        (lambda: InverseSquareRoot(0.1, 2.5), "warmup_steps"),
        (lambda: Noam(0, 400), "d_model"),
        (lambda: Noam(512, True), "warmup_steps"),
        (lambda: Noam(512, 400, -1.0), "factor"),
    ],
)
def test_bad_arguments_are_named(build: Callable[[], Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        build()


def test_a_schedule_ends_with_the_training_unless_told_otherwise() -> None:
    at_end = create_schedule("polynomial", 10, 8, initial=0.1, power=2)
    warm = create_schedule(
        "warmup_polynomial", 10, 8, warmup_initial=0.0, peak=0.1, warmup_epochs=3, power=2
    )
    given = create_schedule("polynomial", 10, 8, initial=0.1, power=2, end_epoch=16)
    last = np.array([79])
    assert values(at_end, last)[0] == 0
    assert values(warm, last)[0] == 0
    assert values(given, last)[0] == pytest.approx(0.1 * 0.5**2)


def test_the_factory_names_what_is_wrong() -> None:
    with pytest.raises(UserError, match=r"'linear'.*polynomial"):
        create_schedule("linear", 10, 8)
    with pytest.raises(UserError, match="'power'"):
        create_schedule("polynomial", 10, 8, initial=0.1)
    with pytest.raises(UserError, match=r"'rho'.*initial"):
        create_schedule("polynomial", 10, 8, rho=0.1)
    assert all(name == name.lower() for name in SCHEDULES)
