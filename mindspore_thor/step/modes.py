"""Which of a network's cells train, and the graphs that belong to that."""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import nn


def _was_set(cell: nn.Cell) -> bool:
    """Whether somebody called ``set_train`` on the cell; cells are made with ``training`` False."""
    return "training" in cell.__dict__.get("_func_graph_flags", {})


def _inside_wrappers(net: nn.Cell) -> nn.Cell:
    """The network in cells such as ``nn.WithLossCell``, which have one child with parameters."""
    while not list(net.get_parameters(expand=False)):
        inner = [child for child in net.cells() if list(child.get_parameters())]
        if len(inner) != 1:
            break
        net = inner[0]
    return net


class Modes:
    """The training mode of every cell: what the user froze by ``set_train(False)`` stays frozen.

    A network as it was made, or in evaluation mode as a whole, trains. A compiled graph does not
    see modes that change later, so graphs are kept for each set of modes.

    Args:
        net: the network.
        graphs: the cells that are compiled.
    """

    def __init__(self, net: nn.Cell, graphs: Sequence[nn.Cell]) -> None:
        self._net = _inside_wrappers(net)
        self._graphs = tuple(graphs)
        self._cells = tuple(cell for _, cell in net.cells_and_names())
        self._trained = self._at_first()
        self._numbers: dict[tuple[bool, ...], int] = {}
        self._number = 0

    def _at_first(self) -> tuple[bool, ...]:
        inside = [cell for _, cell in self._net.cells_and_names()]
        if _was_set(self._net) and not any(cell.training for cell in inside):
            return (True,) * len(self._cells)
        return tuple(cell.training or not _was_set(cell) for cell in self._cells)

    def restore(self) -> None:
        """Put every cell into the mode that it last trained in."""
        for cell, mode in zip(self._cells, self._trained):
            if cell.training != mode:
                cell.add_flags(training=mode)

    def follow(self, training: bool) -> None:
        """Called before every step.

        Args:
            training: the step's own mode. While it is True, a network that is in evaluation mode as
                a whole was evaluated since the last step.
        """
        if training and not self._net.training:
            self.restore()
        now = tuple([cell.training for cell in self._cells])
        number = self._numbers.setdefault(now, len(self._numbers))
        if number != self._number:
            self._number = number
            for graph in self._graphs:
                graph.phase = f"train.{number}" if number else "train"
        if training:
            self._trained = now
