"""A training script as a user has it: net, loss, optimizer, loop. The optimizer is one line.

:data:`OPTIMIZERS` has the lines. Nothing else in :func:`train` knows which one it is.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindspore_thor import KFAC, THOR, TrainStep, UserError
from mindspore_thor.cache.compile_cache import Choice
from mindspore_thor.data.cifar import read_cifar10
from mindspore_thor.data.factory import ARRAY_SETS
from mindspore_thor.data.files import data_folder
from mindspore_thor.data.order import Order
from mindspore_thor.data.sources import ArraySource, SmallAugment
from mindspore_thor.errors import TrainingError
from models import create_model

BATCH = 64
TRAIN = 3200
"""The first images of the training files: these are trained on."""
HELD_OUT = 2000
"""Those behind them: they choose rates."""
TEST = 2000
"""The first images of the test file: they draw the curves, and choose nothing."""

_EVALUATION_BATCH = 250
_GRAPH_SEED = 1

Rates = Sequence[float]


def momentum(net: nn.Cell, rates: Rates) -> nn.Optimizer:
    """What the script has."""
    return nn.Momentum(net.trainable_params(), rates, 0.9, weight_decay=5e-4)


def thor(net: nn.Cell, rates: Rates) -> nn.Optimizer:
    """The line in its place."""
    return THOR(
        net, rates, weight_decay=5e-4, factor_interval=10, inverse_interval=20, grafting="sgd"
    )


def kfac(net: nn.Cell, rates: Rates) -> nn.Optimizer:
    """The other line in its place."""
    return KFAC(
        net, rates, weight_decay=5e-4, factor_interval=10, inverse_interval=20, grafting="sgd"
    )


def thor_own(net: nn.Cell, rates: Rates) -> nn.Optimizer:
    """Without grafting, for a rate of its own."""
    return THOR(net, rates, weight_decay=5e-4, factor_interval=10, inverse_interval=20)


def kfac_own(net: nn.Cell, rates: Rates) -> nn.Optimizer:
    """Without grafting, for a rate of its own; its KL clip is on."""
    return KFAC(net, rates, weight_decay=5e-4, factor_interval=10, inverse_interval=20)


@dataclass(frozen=True)
class Line:
    """An optimizer, as the script's one line.

    Attributes:
        title: In tables and figures.
        make: The line: (net, one rate per step) -> optimizer.
        own_rates: Candidates for its rate; none where it takes Momentum's.
    """

    title: str
    make: Callable[[nn.Cell, Rates], nn.Optimizer]
    own_rates: tuple[float, ...] = ()


MOMENTUM = "momentum"
OPTIMIZERS = {
    MOMENTUM: Line("Momentum", momentum),
    "thor": Line("THOR, grafted", thor),
    "kfac": Line("KFAC, grafted", kfac),
    "thor_own": Line("THOR, own rate", thor_own, (0.03, 0.1, 0.2)),
    "kfac_own": Line("KFAC, own rate", kfac_own, (0.03, 0.1, 0.3)),
}


@dataclass(frozen=True)
class Net:
    """A net of the comparison.

    Attributes:
        title: In tables and figures.
        build: Makes it with fresh weights, for 10 classes.
        rates: Candidates for Momentum's rate.
    """

    title: str
    build: Callable[[], nn.Cell]
    rates: tuple[float, ...] = (0.03, 0.1, 0.3)


def _mindcv(module: str, name: str, **options: Any) -> nn.Cell:
    """Build a net of mindcv's.

    Args:
        module: Of ``mindcv.models``.
        name: The class or function in it.
        **options: Its own.

    Raises:
        UserError: If mindcv is not installed.
    """
    if importlib.util.find_spec("mindcv") is None:
        raise UserError(
            f"{name} is mindcv's, which is not installed here: 'pip install --no-deps mindcv', or "
            "leave it out of --nets"
        )
    found = getattr(importlib.import_module(f"mindcv.models.{module}"), name)
    return found(num_classes=10, **options)


NETS = {
    "resnet20": Net(
        "ResNet-20, a quarter wide", partial(create_model, "resnet20", num_classes=10, width=0.25)
    ),
    "vgg11": Net(
        "VGG-11, an eighth wide", partial(create_model, "vgg11", num_classes=10, width=0.125)
    ),
    "densenet": Net(
        "DenseNet of 8 layers (mindcv)",
        partial(
            _mindcv,
            "densenet",
            "DenseNet",
            growth_rate=12,
            block_config=(2, 2, 2, 2),
            num_init_features=24,
        ),
    ),
    "repvgg": Net(
        "RepVGG of 5 blocks (mindcv)",
        partial(
            _mindcv,
            "repvgg",
            "RepVGG",
            num_blocks=[1, 1, 1, 1],
            width_multiplier=[0.5, 0.5, 0.25, 0.25],
        ),
    ),
}


@dataclass(frozen=True)
class Images:
    """What a run sees.

    Attributes:
        train: Images uint8 [N, 3, 32, 32] and labels [N].
        judged: Those that it is measured with after every epoch, likewise.
    """

    train: tuple[np.ndarray, np.ndarray]
    judged: tuple[np.ndarray, np.ndarray]


def read_images(path: Path, *, tuning: bool) -> Images:
    """Read what a run sees.

    Args:
        path: Folder of CIFAR-10's binary files.
        tuning: Whether a rate is chosen: then the test file is not opened.

    Returns:
        Training images, and held-out training images or test images.

    Raises:
        UserError: If the files are not there, or damaged.
    """
    folder = data_folder("cifar10", path)
    images, labels, _ = read_cifar10(folder, True)
    train = images[:TRAIN], labels[:TRAIN]
    if tuning:
        end = TRAIN + HELD_OUT
        return Images(train, (images[TRAIN:end], labels[TRAIN:end]))
    images, labels, _ = read_cifar10(folder, False)
    return Images(train, (images[:TEST], labels[:TEST]))


def batches(
    images: tuple[np.ndarray, np.ndarray], size: int, seed: int | None, epoch: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One pass over images; whole batches only.

    Args:
        images: uint8 [N, 3, 32, 32] and labels [N].
        size: Images in a batch.
        seed: Of the order and of cuts and mirroring; None for the images as they are, in order.
        epoch: Number of the pass, from 0.

    Yields:
        Images float32 [size, 3, 32, 32], labels int32 [size].
    """
    pixels, labels = images
    known, count, training = ARRAY_SETS["cifar10"], len(labels), seed is not None
    steps, order = count // size, Order(count, seed or 0, training)
    augment = SmallAugment(4, True) if training else None
    source = ArraySource(
        *(pixels, labels.astype(np.int32), order, size, steps, seed or 0, augment),
        *(known.mean, known.std),
    )
    for step in range(epoch * steps, (epoch + 1) * steps):
        yield source[step]


def loss_and_accuracy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Mean cross entropy, and the share of the images whose largest logit is their label's.

    Args:
        logits: [N, classes].
        labels: [N].
    """
    logits = logits.astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    chosen = logits[np.arange(len(labels)), labels]
    loss = (np.log(np.exp(logits).sum(1)) - chosen).mean()
    return float(loss), float((logits.argmax(1) == labels).mean())


def evaluate(net: nn.Cell, images: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    """Loss and accuracy of a net, which is back in training mode afterwards.

    Args:
        net: The net.
        images: uint8 [N, 3, 32, 32] and labels [N].
    """
    net.set_train(False)
    found = [
        (net(Tensor(x)).asnumpy(), labels)
        for x, labels in batches(images, min(_EVALUATION_BATCH, len(images[1])), None)
    ]
    net.set_train(True)
    logits, labels = (np.concatenate(part) for part in zip(*found))
    return loss_and_accuracy(logits, labels)


def cosine_rates(rate: float, steps: int) -> list[float]:
    """Half a cosine: a rate for every step, from ``rate`` towards zero.

    Args:
        rate: The first one.
        steps: How many.
    """
    return nn.cosine_decay_lr(0.0, rate, steps, 1, steps)


def train(
    build: Callable[[], nn.Cell],
    line: Callable[[nn.Cell, Rates], nn.Optimizer],
    rate: float,
    seed: int,
    images: Images,
    epochs: int,
    compile_cache: Choice = None,
    show: Callable[[dict[str, float]], None] | None = None,
) -> tuple[list[dict[str, float]], str | None]:
    """Train a net.

    Args:
        build: Makes the net.
        line: Makes the optimizer.
        rate: The learning rate that the cosine begins with.
        seed: Of weights, order and augmentation.
        images: What is trained on, and measured with.
        epochs: Passes over the images.
        compile_cache: See :class:`~mindspore_thor.TrainStep`.
        show: Called with every epoch's row.

    Returns:
        A row for every epoch (epoch, loss: its steps' mean; test_loss, test_accuracy after it;
        skipped: updates skipped so far because something was not finite), and why the training
        ended early, or None.
    """
    ms.set_seed(seed)
    net = build()
    # A graph is kept under the seed that it is compiled with: one for all runs' graphs.
    ms.set_seed(_GRAPH_SEED)
    rates = cosine_rates(rate, epochs * (len(images.train[1]) // BATCH))
    step = TrainStep(net, nn.CrossEntropyLoss(), line(net, rates), compile_cache=compile_cache)
    rows: list[dict[str, float]] = []
    for epoch in range(epochs):
        try:
            losses = [
                float(step(Tensor(x), Tensor(labels)).asnumpy())
                for x, labels in batches(images.train, BATCH, seed, epoch)
            ]
        except TrainingError as error:
            return rows, str(error)
        loss, accuracy = evaluate(net, images.judged)
        row = {"epoch": epoch + 1, "loss": float(np.mean(losses))}
        row |= {"test_loss": loss, "test_accuracy": accuracy}
        row["skipped"] = int(step.skipped.asnumpy())
        rows.append(row)
        if show is not None:
            show(row)
    return rows, None
