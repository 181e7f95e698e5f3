"""Tasks on images: labels, or the images themselves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from mindspore_thor.data import Data, create_data
from mindspore_thor.data.factory import image_facts
from mindspore_thor.errors import UserError
from mindspore_thor.graph.counting import counting
from mindspore_thor.run.evaluate import Evaluator, Measure
from mindspore_thor.run.options import option
from mindspore_thor.run.task import TEST, TRAIN, DataConfig, Request, Task

TOP_1 = "top_1_accuracy"
TOP_5 = "top_5_accuracy"
RECONSTRUCTION_ERROR = "reconstruction_error"


@dataclass(frozen=True)
class ImageDataConfig(DataConfig):
    """Which images are trained on, and how they are batched."""

    name: str = option("fashion_mnist_sample", str, "data set")
    augment: bool = option(True, bool, "random crops and flips of the training images")
    num_workers: int = option(2, int, "threads that prepare images", low=1, most=1024)
    image_size: int | None = option(
        None,
        int,
        "side length in pixels; null: the data set's own",
        low=1,
        most=4096,
        optional=True,
    )
    validation: int = option(
        0,
        int,
        "training images that are held out, and looked at in place of the test images",
        low=0,
        most=10**7,
    )
    limit: int = option(0, int, "training images that are used; 0: all", low=0, most=10**9)


class CountHits(Measure):
    """Counts the samples whose label is among the first and the first five predictions.

    Args:
        net: Images to logits [N, classes].
    """

    def construct(self, images: Tensor, labels: Tensor, used: Tensor) -> Tensor:
        """Return the two counts, float32 [2].

        The label's rank is the number of classes that come before it; equal logits count in class
        order, as in a stable sort. Logits that are not finite are misses, since comparing with NaN
        would rank every label first.
        """
        logits = ops.cast(self.net(images), mstype.float32)
        classes = counting(0, logits.shape[1]).reshape((1, -1))
        column = labels.reshape((-1, 1))
        own = ops.gather_elements(logits, 1, column)
        before = ops.logical_or(logits > own, ops.logical_and(logits == own, classes < column))
        rank = ops.cast(before, mstype.int32).sum(axis=1)
        finite = ops.cast(ops.isfinite(logits), mstype.float32).min(axis=1) * used
        first = (ops.cast(rank < 1, mstype.float32) * finite).sum()
        five = (ops.cast(rank < 5, mstype.float32) * finite).sum()
        return ops.stack((first, five))


class ReconstructionLoss(nn.Cell):
    """Sigmoid cross-entropy summed over the pixels, mean over the batch.

    The training objective of the deep autoencoder benchmark (Martens & Grosse, 2015, section 13;
    ``examples/autoencoder_mnist`` of kfac-jax): ``sum_i -x_i log p_i - (1 - x_i) log(1 - p_i)``
    with ``p = sigmoid(logits)``. Its smallest value is not zero where pixels are grey.
    """

    def construct(self, logits: Tensor, images: Tensor) -> Tensor:
        """Logits [N, pixels], images with N * pixels values in [0, 1] -> scalar."""
        x = images.reshape(logits.shape)
        # max(z, 0) - z x + log(1 + exp(-|z|)): neither term overflows.
        each = ops.relu(logits) - logits * x + ops.log1p(ops.exp(-ops.abs(logits)))
        return each.sum(axis=1).mean()


class SquaredErrors(Measure):
    """Squared distance between an image and its reconstruction, summed over the pixels.

    Args:
        net: Images to logits [N, pixels].
    """

    def construct(self, images: Tensor, labels: Tensor, used: Tensor) -> Tensor:
        """Return ``sum_n used_n ||sigmoid(logits_n) - x_n||^2``, float32 [1]."""
        logits = ops.cast(self.net(images), mstype.float32)
        difference = ops.sigmoid(logits) - images.reshape(logits.shape)
        return ((difference * difference).sum(axis=1) * used).sum().reshape((1,))


@dataclass(frozen=True)
class ImageTask(Task):
    """What tasks on images share.

    Attributes:
        normalize: Whether images are shifted and scaled to mean 0 and deviation 1; otherwise
            their pixels lie in [0, 1].
    """

    normalize: bool = True
    data_config: type[DataConfig] = ImageDataConfig

    def open(self, data: ImageDataConfig, request: Request) -> Data:
        """Open one split; without held-out images the test images are the validation split."""
        train = request.split == TRAIN
        return create_data(
            data.name,
            data.path,
            train=train,
            batch_size=data.batch_size // request.rank_size if train else data.eval_batch_size,
            seed=request.seed,
            augment=data.augment,
            num_workers=data.num_workers,
            image_size=data.image_size,
            rank=request.rank,
            rank_size=request.rank_size,
            num_classes=request.options.get("num_classes"),
            normalize=self.normalize,
            validation=0 if request.split == TEST else data.validation,
            limit=data.limit,
        )

    def tested(self, data: ImageDataConfig) -> bool:
        """Whether there are held-out images, so that the test images are kept for the end."""
        return data.validation > 0

    def model_options(self, data: Data) -> dict[str, Any]:
        """Return what the images decide."""
        return {
            "num_classes": data.num_classes,
            "in_channels": data.image_shape[0],
            "image_size": data.image_shape[1],
        }

    def known_options(self, data: ImageDataConfig, beside: Path) -> dict[str, Any]:
        """Return what the name of the data set says of its images."""
        facts = image_facts(data.name)
        return {
            "num_classes": facts.num_classes,
            "in_channels": len(facts.mean),
            "image_size": data.image_size or facts.image_size,
        }

    def example(self, options: Mapping[str, Any], size: int) -> tuple[np.ndarray, ...]:
        """Return images float32 [size, C, H, W]."""
        side = options["image_size"]
        generator = np.random.default_rng(0)
        images = generator.random((size, options["in_channels"], side, side), np.float32)
        # Uniform pixels have mean 1/2 and deviation 1/sqrt(12).
        return ((images - 0.5) * 12**0.5 if self.normalize else images,)

    def describe_inputs(self, data: ImageDataConfig) -> str:
        """Say how pixels become inputs."""
        if not self.normalize:
            return "pixel / 255"
        facts = image_facts(data.name)
        mean, std = (", ".join(map(str, figures)) for figures in (facts.mean, facts.std))
        return f"(pixel / 255 - mean) / std, by channel mean {mean} and std {std}"

    def evaluation(self, net: nn.Cell, data: Data, config: Any = None) -> Evaluator:
        """Return the means of the metrics over a split."""
        return Evaluator(self.measure(net), net, data, self.metrics)

    @abstractmethod
    def measure(self, net: nn.Cell) -> Measure:
        """Return (images, labels, used) -> the sum of each metric over the used samples."""


@dataclass(frozen=True)
class Classify(ImageTask):
    """Images to labels: cross-entropy, top-1 and top-5 accuracy."""

    name: str = "classify"
    metrics: tuple[str, ...] = (TOP_1, TOP_5)
    lower_is_better: bool = False
    percent: bool = True
    normalize: bool = True

    def loss(self, label_smoothing: float) -> nn.Cell:
        """Return the mean cross-entropy."""
        return nn.CrossEntropyLoss(label_smoothing=label_smoothing)

    def inputs(self, *batch: Tensor) -> tuple[Tensor, ...]:
        """Return images and labels."""
        return batch

    def measure(self, net: nn.Cell) -> Measure:
        """Return the counter of hits."""
        return CountHits(net)

    def check_model(self, name: str, options: Mapping[str, Any]) -> None:
        """Refuse a model without classes."""
        if "num_classes" not in options:
            raise UserError(
                f"model {name!r} has no classes; set train.task to reconstruct, or choose a "
                "classifier"
            )


@dataclass(frozen=True)
class Reconstruct(ImageTask):
    """Images to themselves: summed sigmoid cross-entropy, and the squared reconstruction error."""

    name: str = "reconstruct"
    metrics: tuple[str, ...] = (RECONSTRUCTION_ERROR,)
    lower_is_better: bool = True
    percent: bool = False
    normalize: bool = False

    def loss(self, label_smoothing: float) -> nn.Cell:
        """Return the reconstruction loss."""
        if label_smoothing:
            raise UserError(
                f"train.label_smoothing is {label_smoothing:g}, but task 'reconstruct' has no "
                "labels; set it to 0"
            )
        return ReconstructionLoss()

    def inputs(self, *batch: Tensor) -> tuple[Tensor, ...]:
        """Return the images twice."""
        return batch[0], batch[0]

    def measure(self, net: nn.Cell) -> Measure:
        """Return the sum of squared errors."""
        return SquaredErrors(net)

    def check_model(self, name: str, options: Mapping[str, Any]) -> None:
        """Refuse a classifier."""
        if "num_classes" in options:
            raise UserError(
                f"model {name!r} classifies, but train.task is reconstruct; choose the model "
                "autoencoder"
            )
