"""Continuing a run: whether a checkpoint fits the configuration, and what has changed since."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindspore_thor.errors import UserError
from mindspore_thor.files import shown
from mindspore_thor.parallel.rank_state import spread_state
from mindspore_thor.run.build import Session
from mindspore_thor.run.checkpoint import Position
from mindspore_thor.run.ckpt_file import assign, damaged
from mindspore_thor.run.position import check_position
from mindspore_thor.run.yaml_files import dotted_leaves

# With another value the stored position would point at other images, or at another net.
_FIXED_SECTIONS = ("model.", "data.")
_FIXED_KEYS = (
    "optimizer.name",
    "train.seed",
    "train.task",
    "train.accumulate",
)
# These never change what is computed.
_FREE_KEYS = (
    "data.path",
    "data.eval_batch_size",
    "data.num_workers",
    "train.eval_every",
    "train.test",
    "train.keep_best",
    "train.checkpoint_every_epochs",
    "train.checkpoint_every_steps",
    "train.keep_checkpoints",
    "train.log_every",
    "train.max_skipped_updates",
    "train.compile_cache",
    "train.compile_cache_limit",
)
# What checkpoints of earlier releases do not say: there it was so.
_ADDED_KEYS = {"data.validation": 0, "data.limit": 0, "train.test": True}


def restore(
    session: Session, position: Position, values: Mapping[str, Any], state_file: Path
) -> list[str]:
    """Bring a session into the state of a checkpoint.

    Args:
        session: A freshly built session.
        position: The position in the checkpoint; takes over the session's configuration.
        values: The parameters in the checkpoint, by name.
        state_file: The checkpoint's state file, for messages.

    Returns:
        One sentence per setting that makes the run differ from the old one.

    Raises:
        UserError: If the checkpoint does not fit, or has nothing left to train.
    """
    changes = compare_configs(position.config, session.config.to_dict(), state_file)
    steps = session.train_data.steps_per_epoch
    if position.steps_per_epoch != steps:
        raise UserError(
            f"{shown(state_file)}: was trained with {position.steps_per_epoch} batches per epoch, "
            f"the data now has {steps}; resume with the same images (--data_path)"
        )
    try:
        check_position(position, steps)
    except ValueError as error:
        raise damaged(state_file, error) from None
    epochs = session.config.train.epochs
    if position.metrics and position.metrics[-1]["epoch"] >= epochs:
        raise UserError(
            f"{shown(state_file)}: all {epochs} epochs are done; evaluate it with eval.py, or "
            "train on with a larger --train.epochs"
        )
    values = spread_state(values, session.optimizer)
    assign(session.step.parameters_dict(), values, state_file)
    position.config = session.config.to_dict()
    return changes


def compare_configs(old: Mapping[str, Any], new: Mapping[str, Any], state_file: Path) -> list[str]:
    """Compare the configuration of a checkpoint with the present one.

    Args:
        old: The resolved configuration in the checkpoint.
        new: The resolved configuration now.
        state_file: The checkpoint, for the message.

    Returns:
        One sentence per difference that is allowed but changes the run.

    Raises:
        UserError: If a setting differs that a resumed run must keep.
    """
    before, after = dict(dotted_leaves(dict(old))), dict(dotted_leaves(dict(new)))
    changes = []
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key, _ADDED_KEYS.get(key)), after.get(key)
        if was == now or key in _FREE_KEYS:
            continue
        if key in _FIXED_KEYS or key.startswith(_FIXED_SECTIONS):
            raise UserError(
                f"{shown(state_file)}: was trained with {shown(key, 40)} {shown(repr(was), 40)}, "
                f"now it is {shown(repr(now), 40)}; resume with the same value, or start a new run"
            )
        values = f"{shown(repr(now), 80)}, was {shown(repr(was), 80)}"
        changes.append(f"{shown(key, 60)} is now {values}")
    return changes
