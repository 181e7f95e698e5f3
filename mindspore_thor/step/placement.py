"""Values that are written into a step between two calls."""

from __future__ import annotations

from collections.abc import Iterable

from mindspore import Parameter, Tensor, nn

from mindspore_thor.errors import UserError


class Placement:
    """Notices between two calls that parameters were put elsewhere, and brings their values home.

    ``Parameter.set_data``, and with it ``ms.load_param_into_net``, gives a parameter new memory.
    Graphs that share parameters, and graphs with branches, go on with the old memory in MindSpore
    2.10: learning rates are ignored and updates are lost. So the new value is copied to where the
    graphs look, and the parameter is put back there: nothing is compiled again.

    Args:
        step: the cell whose compiled graphs share parameters.
        watched: those that are looked at, in every call.
    """

    def __init__(self, step: nn.Cell, watched: Iterable[Parameter]) -> None:
        self._step = step
        self._watched = tuple(watched)
        self._addresses: list[int] | None = None
        self._homes: list[Tensor] = []

    def note(self) -> None:
        """Remember where the parameters are, after a call."""
        if self._addresses is None:
            # Before MindSpore 2.10 one that no graph uses has no address, and asking logs an error.
            self._watched = tuple(p for p in self._watched if p.data_ptr())
            self._homes = [_same_memory(p) for p in self._watched]
            self._addresses = self._now()
            return
        for i, address in enumerate(self._now()):
            if address != self._addresses[i]:
                self._homes[i] = _same_memory(self._watched[i])
                self._addresses[i] = address

    def changed(self) -> bool:
        """Whether a parameter has moved since the last call; no, where there was none."""
        return self._addresses is not None and self._addresses != self._now()

    def bring_home(self) -> list[Parameter]:
        """Give the moved parameters their old memory again, with the new values.

        Returns:
            The parameters that had moved.

        Raises:
            UserError: where a new value has another shape or type than the graphs were made for.
        """
        moved = []
        for parameter, home, address in zip(self._watched, self._homes, self._addresses or ()):
            if parameter.data_ptr() == address:
                continue
            if parameter.shape != home.shape or parameter.dtype != home.dtype:
                raise UserError(
                    f"{parameter.name[:80]} was {home.dtype}{list(home.shape)} and was set to "
                    f"{parameter.dtype}{list(parameter.shape)} between two steps: make the "
                    "optimizer and the TrainStep anew after such a change"
                )
            home.copy_(parameter)
            parameter.assign_value(home)
            moved.append(parameter)
        return moved

    def _now(self) -> list[int]:
        return [parameter.data_ptr() for parameter in self._watched]


def _same_memory(parameter: Parameter) -> Tensor:
    """A tensor that holds on to a parameter's memory when the parameter itself moves."""
    home = Tensor(0, parameter.dtype)
    home.assign_value(parameter)
    return home
