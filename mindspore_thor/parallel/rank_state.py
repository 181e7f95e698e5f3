"""Training state that differs between ranks, so that one checkpoint holds that of all of them.

FNGD keeps a weight for every sample of a rank's own part of the batch. Sample k of rank r is sample
k R + r of the global batch, so a file holds the weights of the global batch, and a run saved on two
ranks resumes on one and the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, nn

from mindspore_thor.parallel.agreement import sum_over_ranks
from mindspore_thor.parallel.communication import world


def gather_state(state: Mapping[str, Parameter], optimizer: nn.Optimizer) -> dict[str, Parameter]:
    """What a checkpoint has to hold; every rank must call it at the same step.

    Args:
        state: parameters of the training step by name, as on this rank.
        optimizer: the optimizer; ``rank_state()`` lists its parameters whose last axis are the
            rank's own samples, ``scratch()`` those that carry nothing from one step to the next.

    Returns:
        ``state`` without scratch, and with the samples of all ranks where they differ.
    """
    rank, size = world()
    scratch = {parameter.name for parameter in _listed(optimizer, "scratch")}
    gathered = {name: parameter for name, parameter in state.items() if name not in scratch}
    for parameter in _listed(optimizer, "rank_state") if size > 1 else ():
        local = parameter.asnumpy()
        whole = np.zeros((*local.shape[:-1], size * local.shape[-1]), np.float32)
        whole[..., rank::size] = local
        gathered[parameter.name] = Parameter(Tensor(sum_over_ranks(whole)), name=parameter.name)
    return gathered


def spread_state(values: Mapping[str, Any], optimizer: nn.Optimizer) -> dict[str, Any]:
    """The inverse of :func:`gather_state`: stored values -> those of this rank."""
    rank, size = world()
    own = {**values, **{parameter.name: parameter for parameter in _listed(optimizer, "scratch")}}
    for parameter in _listed(optimizer, "rank_state") if size > 1 else ():
        stored = own.get(parameter.name)
        if stored is not None and stored.shape[-1] == size * parameter.shape[-1]:
            own[parameter.name] = Tensor(np.ascontiguousarray(stored.asnumpy()[..., rank::size]))
    return own


def _listed(optimizer: nn.Optimizer, method: str) -> tuple[Parameter, ...]:
    found = getattr(optimizer, method, None)
    return found() if found is not None else ()
