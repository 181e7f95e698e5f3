"""Parameters that are loaded into a step while it is in use."""

from __future__ import annotations

import logging

from mindspore import Parameter, nn

_LOGGER = logging.getLogger("mindspore_thor")


class Placement:
    """Notices between two calls that parameters were put elsewhere, and has graphs made anew.

    ``Parameter.set_data``, and with it ``ms.load_param_into_net``, gives a parameter new memory.
    A single compiled graph follows. Where several graphs share parameters, those of MindSpore 2.10
    go on with the old memory in some of them, and updates are lost.

    Args:
        step: the cell whose compiled graphs share its parameters.
    """

    def __init__(self, step: nn.Cell) -> None:
        self._step = step
        self._parameters: list[Parameter] = []
        self._addresses: list[int] = []

    def note(self) -> None:
        """Remember where the parameters are, after a call."""
        if not self._parameters:
            self._parameters = list(self._step.get_parameters())
        self._addresses = self._now()

    def changed(self) -> bool:
        """Whether a parameter has moved since the last call."""
        return self._addresses != self._now()

    def compile_again(self) -> None:
        """Forget the compiled graphs; the next call makes them anew, which takes as long."""
        _LOGGER.warning("parameters were loaded into a step in use: its graphs are compiled again")
        for _, cell in self._step.cells_and_names():
            cell.compile_cache.clear()

    def _now(self) -> list[int]:
        return [parameter.data_ptr() for parameter in self._parameters]
