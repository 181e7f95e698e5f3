"""Weights that are loaded into a step while it is in use."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from mindspore import Parameter, nn

_LOGGER = logging.getLogger("mindspore_thor")


class Placement:
    """Notices between two calls that parameters were put elsewhere, and has graphs made anew.

    ``Parameter.set_data``, and with it ``ms.load_param_into_net``, gives a parameter new memory.
    A single compiled graph follows. Where several graphs share parameters, those of MindSpore 2.10
    go on with the old memory in some of them, and updates are lost.

    Args:
        step: the cell whose compiled graphs share parameters.
        watched: those that are looked at, in every call. The network's own do: a checkpoint holds
            them. State that is loaded into the optimizer alone is not noticed.
    """

    def __init__(self, step: nn.Cell, watched: Iterable[Parameter]) -> None:
        self._step = step
        self._watched = tuple(watched)
        self._addresses: list[int] | None = None

    def note(self) -> None:
        """Remember where the parameters are, after a call."""
        if self._addresses is None:
            # Before MindSpore 2.10 one that no graph uses has no address, and asking logs an error.
            self._watched = tuple(p for p in self._watched if p.data_ptr())
        self._addresses = self._now()

    def changed(self) -> bool:
        """Whether a parameter has moved since the last call; no, where there was none."""
        return self._addresses is not None and self._addresses != self._now()

    def compile_again(self) -> None:
        """Forget the compiled graphs; the next call makes them anew, which takes as long."""
        _LOGGER.warning("parameters were loaded into a step in use: its graphs are compiled again")
        for _, cell in self._step.cells_and_names():
            cell.compile_cache.clear()

    def _now(self) -> list[int]:
        return [parameter.data_ptr() for parameter in self._watched]
