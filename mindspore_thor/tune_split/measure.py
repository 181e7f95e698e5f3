"""What the choice of a split dimension needs: inversion times and real input factors."""

from __future__ import annotations

import dataclasses
import statistics
import time

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindspore_thor.errors import UserError
from mindspore_thor.linalg.inverse import damped_inverse
from mindspore_thor.methods.inverse_factors import InverseFactors
from mindspore_thor.run.build import Session
from mindspore_thor.run.config import ChoiceConfig, Config

_LEAST_REPEATS = 3
_MOST_REPEATS = 200
_ENOUGH_SECONDS = 0.3


class _Inverse(nn.Cell):
    """One damped inverse as the optimizers compute it, its check included."""

    def construct(self, matrix: Tensor, damping: Tensor) -> Tensor:
        """[1, s, s] -> its damped inverse."""
        inverse, ok = damped_inverse(matrix, damping)
        return inverse * ok


def inversion_seconds(size: int) -> float:
    """Measure the inversion of one matrix on this device.

    Args:
        size: s, its rows and columns.

    Returns:
        Median seconds of a call, compilation excluded, waiting for the result included.
    """
    generator = np.random.default_rng(size)
    half = generator.standard_normal((size, size)).astype(np.float32) / np.sqrt(size)
    matrix = Tensor((half @ half.T)[None])
    damping = Tensor(0.1, ms.float32)
    cell = _Inverse()
    times: list[float] = []
    cell(matrix, damping).asnumpy()
    while len(times) < _LEAST_REPEATS or (
        sum(times) < _ENOUGH_SECONDS and len(times) < _MOST_REPEATS
    ):
        start = time.perf_counter()
        cell(matrix, damping).asnumpy()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def capturing(config: Config) -> Config:
    """Return the configuration with THOR on whole factors in the optimizer's place.

    Args:
        config: Any recipe.
    """
    options = {"split_dim": None, "factor_interval": 1, "inverse_interval": 1}
    return dataclasses.replace(
        config,
        optimizer=ChoiceConfig("thor", options),
        learning_rate=ChoiceConfig("constant", {"value": 0.0}),
        damping=None,
    )


def input_factors(session: Session, batches: int) -> dict[str, np.ndarray]:
    """Collect the input factors A of all covered layers, the mean over some training batches.

    Args:
        session: Built from :func:`capturing`; its weights stay as they are.
        batches: How many batches, at most one epoch's.

    Returns:
        Layer -> A, float64 [groups, d, d].

    Raises:
        UserError: If no layer has Kronecker factors, or a factor is not finite.
    """
    optimizer, step = session.optimizer, session.step
    layers = {
        name: curvature
        for name, curvature in zip(optimizer.layer_names, optimizer.curvatures)
        if isinstance(curvature.group, InverseFactors)
    }
    if not layers:
        raise UserError(
            f"model {session.config.model.name!r} has no Dense or Conv2d layer to split; choose "
            "another recipe"
        )
    sums: dict[str, np.ndarray] = {}
    count = 0
    for batch in session.train_data.epoch(0):
        step.capture.compile_and_run(*session.config.task.inputs(*batch))
        for name, curvature in layers.items():
            # [groups, one block, d, d], since nothing was split.
            factor = curvature.factor_a().asnumpy().astype(np.float64)[:, 0]
            sums[name] = sums.get(name, 0.0) + factor
        count += 1
        if count == batches:
            break
    for name, total in sums.items():
        if not np.isfinite(total).all():
            raise UserError(
                f"layer {name}: its input factor is not finite; give a checkpoint whose training "
                "did not diverge"
            )
    return {name: total / count for name, total in sums.items()}
