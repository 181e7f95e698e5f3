"""What the ranks of a run have to settle among themselves: the same start.

Called by all ranks at the same places; with one rank nothing happens.
"""

from __future__ import annotations

from mindspore_thor.parallel.agreement import check_equal
from mindspore_thor.parallel.communication import world
from mindspore_thor.run.build import Session
from mindspore_thor.run.checkpoint import Position
from mindspore_thor.run.yaml_files import dotted_leaves


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
