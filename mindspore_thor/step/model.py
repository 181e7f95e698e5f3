"""What ``ms.Model`` has to be told about a training network with an optimizer inside."""

from __future__ import annotations

import sys

from mindspore import nn


def show_optimizer(optimizer: nn.Optimizer) -> None:
    """Called by a step that ``ms.Model`` may be calling: show its callbacks the optimizer.

    They look for it in the run's parameters (``LearningRateScheduler`` and ``ReduceLROnPlateau``
    do), where ``Model(TrainStep(...))`` has None: a Model that is given the optimizer itself would
    wrap the step into another one. The parameters are handed to callbacks alone, so they are taken
    from the caller.
    """
    caller = sys._getframe(2)
    if caller.f_globals.get("__name__") != "mindspore.train.model":
        return
    parameters = caller.f_locals.get("cb_params")
    if parameters is not None and parameters.get("optimizer") is None:
        parameters.optimizer = optimizer
