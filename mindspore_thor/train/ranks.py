"""What the ranks of a run have to settle among themselves: the same start, one set of BatchNorms.

Called by all ranks at the same places; with one rank nothing happens.
"""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, ops

from mindspore_thor.parallel.agreement import check_equal, sum_over_ranks
from mindspore_thor.parallel.communication import world
from mindspore_thor.train.build import Session
from mindspore_thor.train.checkpoint import Position
from mindspore_thor.train.step import Guard
from mindspore_thor.train.yaml_files import dotted_leaves


def check_same_start(session: Session, position: Position) -> None:
    """Raise unless all ranks begin with the same weights, configuration, data and position.

    Args:
        session: Before the first step.
        position: Where the loop stands.

    Raises:
        TrainingError: Naming a rank and what differs.
    """
    if world()[1] == 1:
        return
    # Each server may keep its images elsewhere.
    settings = sorted(dotted_leaves(session.config.to_dict()))
    texts = [f"{key}={value}" for key, value in settings if key != "data.path"]
    check_equal(
        {
            "configuration": texts,
            "number of batches": [str(session.train_data.steps_per_epoch)],
            "position": [f"{position.epoch}, {position.step}"],
            "set of weights": [value.asnumpy() for value in session.net.parameters_dict().values()],
        }
    )


def average_running_statistics(guard: Guard) -> None:
    """Replace BatchNorm's running statistics by their mean over the ranks.

    Training does not use them, evaluation and checkpoints do. They are linear in what the ranks
    saw, so that it makes no difference when, or how often, they are averaged.

    Args:
        guard: The train step's guard, which knows them and keeps their last good values.
    """
    _, size = world()
    if size == 1 or not guard.running_count:
        return
    values = [parameter.asnumpy() for parameter in guard.running]
    means = sum_over_ranks(np.concatenate([value.ravel() for value in values])) / np.float32(size)
    parts = np.split(means, np.cumsum([value.size for value in values])[:-1])
    for running, good, value, part in zip(guard.running, guard.good, values, parts):
        mean = Tensor(part.reshape(value.shape))
        ops.assign(running, mean)
        ops.assign(good, mean)
