"""What a run learns: its data, its loss, what is measured, and what else it keeps.

A task is chosen by ``train.task``; everything else in the loop is the same for all of them. Each is
one file in :mod:`mindspore_thor.run.tasks`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from mindspore import Tensor, nn

from mindspore_thor.cache.compile_cache import StoredGraph
from mindspore_thor.run.options import option
from mindspore_thor.step.inputs import CaptureInputs

TRAIN = "train"
VALID = "valid"
TEST = "test"
"""The splits of a data set: trained on, looked at during the training, and at its end."""


@dataclass(frozen=True)
class DataConfig:
    """What every task's data have. A task adds its own keys, see ``Task.data_config``."""

    name: str = option("", str, "data set")
    path: str | None = option(None, str, "folder of the data; null: bundled", optional=True)
    batch_size: int = option(128, int, "samples per update", low=1, most=65536)
    eval_batch_size: int = option(500, int, "samples per evaluation batch", low=1, most=16384)


@dataclass(frozen=True)
class Request:
    """Which batches a process wants.

    Attributes:
        split: ``TRAIN``, ``VALID`` or ``TEST``.
        seed: Of the order and the augmentation.
        rank: This process's number.
        rank_size: Number of processes; in training each gets an equal part of every batch.
        options: The model's options, as far as the recipe gives them.
        beside: The folder of the checkpoint that is continued or evaluated, or None.
    """

    split: str
    seed: int
    rank: int
    rank_size: int
    options: Mapping[str, Any] = field(default_factory=dict)
    beside: Path | None = None


class Batches(Protocol):
    """What the loop needs of a data set.

    Attributes:
        steps_per_epoch: Batches per epoch.
    """

    steps_per_epoch: int

    def epoch(self, index: int, start: int = 0) -> Iterator[tuple[Any, ...]]:
        """Iterate over the batches of an epoch, from batch ``start`` on."""
        ...


class Evaluation(Protocol):
    """Measures a net on a data set.

    Attributes:
        files: Name -> text that the last measurement leaves in the run folder.
        graphs: What is compiled; kept between runs where the training's graphs are.
    """

    @property
    def files(self) -> Mapping[str, str]:
        """See the class."""
        ...

    @property
    def graphs(self) -> tuple[StoredGraph, ...]:
        """See the class."""
        ...

    def __call__(self, should_stop: Callable[[], bool] | None = None) -> dict[str, float] | None:
        """Run through the data set once.

        Args:
            should_stop: Asked after every batch whether to give up.

        Returns:
            The metrics by name, or None when stopped.
        """
        ...


@dataclass(frozen=True)
class Task(ABC):
    """A kind of learning problem.

    Attributes:
        name: The value of ``train.task``.
        metrics: Names of the reported metrics; the first one decides which weights are the best.
        lower_is_better: Whether a smaller value of the first metric is the better one.
        percent: Whether the metrics are shares in [0, 1], shown in per cent in pictures.
        data_config: The section ``data`` of its recipes.
        own_files: Names of further files in a run folder.
        loss_metric: A metric that is drawn beside the training loss; empty for none.
    """

    name: str
    metrics: tuple[str, ...]
    lower_is_better: bool
    percent: bool
    data_config: type[DataConfig]
    own_files: tuple[str, ...] = ()
    loss_metric: str = ""

    @abstractmethod
    def open(self, data: Any, request: Request) -> Any:
        """Open one split of a data set.

        Args:
            data: The section ``data``, of the type ``data_config``.
            request: Which part of it.

        Returns:
            :class:`Batches`, with whatever the other methods want to know of it.

        Raises:
            UserError: If the data is missing, empty or does not fit.
        """

    @abstractmethod
    def model_options(self, data: Any) -> dict[str, Any]:
        """Return the options of a model that the opened data decides."""

    def tested(self, data: Any) -> bool:
        """Whether a finished run is measured on the test split, once, and never before.

        Args:
            data: The section ``data``.
        """
        return False

    def completed(self, config: Any, data: Any) -> Any:
        """Return the section ``data`` with what was decided when the data was opened."""
        return config

    @abstractmethod
    def known_options(self, data: Any, beside: Path) -> dict[str, Any]:
        """Return what opening the data would decide, as far as is known without the data.

        Args:
            data: The section ``data``.
            beside: The folder of the checkpoint.

        Returns:
            As :meth:`model_options`, with whatever :meth:`example` needs besides.

        Raises:
            UserError: If there is no such data set.
        """

    @abstractmethod
    def example(self, options: Mapping[str, Any], size: int) -> tuple[np.ndarray, ...]:
        """Return random inputs of a net.

        Args:
            options: From :meth:`known_options`, with the model's own on top.
            size: Samples.

        Returns:
            The arguments that a trained net is called with.
        """

    @abstractmethod
    def describe_inputs(self, data: Any) -> str:
        """Say what an input is made of, for whoever feeds an exported net."""

    @abstractmethod
    def loss(self, label_smoothing: float) -> nn.Cell:
        """Return the mean loss over a batch, (output, target) -> scalar."""

    @abstractmethod
    def inputs(self, *batch: Any) -> tuple[Tensor, ...]:
        """Return what the train step gets: the net's inputs and the target of the loss."""

    def capture_inputs(self, data: Any) -> CaptureInputs | None:
        """Return what a pass that collects statistics takes in place of a batch; None for the same.

        Args:
            data: The opened training split.
        """
        return None

    @abstractmethod
    def evaluation(self, net: nn.Cell, data: Any, config: Any) -> Evaluation:
        """Return what measures a net during the training.

        Args:
            net: The net.
            data: An opened split.
            config: The section ``data``.
        """

    def final(self, net: nn.Cell, data: Any, config: Any) -> Evaluation:
        """Return what measures a trained net on the test split; see :meth:`evaluation`."""
        return self.evaluation(net, data, config)

    @abstractmethod
    def check_model(self, name: str, options: Mapping[str, Any]) -> None:
        """Raise ``UserError`` where the model is not made for this task."""

    def notes(self, data: Any) -> list[str]:
        """Return lines that a run begins with: what of the opened training split it leaves out."""
        return []

    def kept(self, data: Any) -> dict[str, bytes]:
        """Return the files, name -> content, without which a checkpoint could not be used."""
        return {}
