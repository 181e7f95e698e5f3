"""The models: published or counted parameter numbers, shapes, initial values, the registry."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from mindspore_thor.errors import UserError
from models import available_models, create_model, model_options


def count(net: nn.Cell) -> int:
    return sum(parameter.size for parameter in net.trainable_params())


# The counts of torchvision's documentation; the same nets.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
    ],
)
def test_published_parameter_counts(name: str, expected: int) -> None:
    assert count(create_model(name)) == expected


def test_cifar_stem_replaces_only_the_first_convolution() -> None:
    imagenet = 11_689_512
    stem = 64 * 3 * (7 * 7 - 3 * 3)
    head = 513 * (1000 - 10)
    assert count(create_model("resnet18", stem="cifar", num_classes=10)) == imagenet - stem - head


def cifar_resnet_count(depth: int, classes: int, channels: int, widths: list[int]) -> int:
    """Sum over the layers: k * k * c_in * c_out for a convolution, 2 * c for a BatchNorm."""
    total = 9 * channels * widths[0] + 2 * widths[0]
    before = widths[0]
    for width in widths:
        for _ in range((depth - 2) // 6):
            total += 9 * before * width + 9 * width * width + 4 * width
            if before != width:
                total += before * width + 2 * width
            before = width
    return total + (before + 1) * classes


@pytest.mark.parametrize(
    ("name", "depth", "options", "widths"),
    [
        ("resnet20", 20, {}, [16, 32, 64]),
        ("resnet32", 32, {"num_classes": 100}, [16, 32, 64]),
        ("resnet56", 56, {}, [16, 32, 64]),
        ("resnet20", 20, {"width": 0.5, "in_channels": 1}, [8, 16, 32]),
        ("resnet20", 20, {"width": 1.3}, [21, 42, 83]),
        ("resnet20", 20, {"width": 2}, [32, 64, 128]),
    ],
)
def test_cifar_resnet_counts(
    name: str, depth: int, options: dict[str, Any], widths: list[int]
) -> None:
    classes, channels = options.get("num_classes", 10), options.get("in_channels", 3)
    expected = cifar_resnet_count(depth, classes, channels, widths)
    assert count(create_model(name, **options)) == expected


def test_cifar_resnet_depth_is_the_number_of_weight_layers() -> None:
    for name, depth in (("resnet20", 20), ("resnet32", 32), ("resnet56", 56)):
        cells = [cell for _, cell in create_model(name).cells_and_names()]
        kernels = [c.kernel_size[0] for c in cells if isinstance(c, nn.Conv2d)]
        dense = [c for c in cells if isinstance(c, nn.Dense)]
        assert kernels.count(3) + len(dense) == depth
        assert kernels.count(1) == 2


def test_vgg_count() -> None:
    widths = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    layers = sum(9 * a * b + 2 * b for a, b in zip(widths, widths[1:]))
    assert count(create_model("vgg11")) == layers + 513 * 10


@pytest.mark.parametrize("hidden", [(), (7,), [30, 20, 10]])
def test_mlp_count(hidden: Any) -> None:
    sizes = [2 * 9 * 9, *hidden, 5]
    net = create_model("mlp", hidden=hidden, in_channels=2, image_size=9, num_classes=5)
    assert count(net) == sum(a * b + b for a, b in zip(sizes, sizes[1:]))


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("mlp", {"in_channels": 3, "image_size": 11}, (3, 3, 11, 11)),
        ("resnet20", {"in_channels": 1, "num_classes": 7, "width": 0.25}, (3, 1, 28, 28)),
        ("vgg11", {"width": 0.125}, (2, 3, 32, 32)),
        ("vgg11", {"width": 0.125, "in_channels": 1}, (2, 1, 33, 47)),
        ("resnet18", {"stem": "cifar", "num_classes": 10}, (1, 3, 16, 16)),
        ("resnet18", {}, (1, 3, 65, 33)),
    ],
)
def test_output_shape(name: str, options: dict[str, Any], shape: Any) -> None:
    net = create_model(name, **options)
    result = net(Tensor(np.random.default_rng(0).normal(size=shape).astype(np.float32))).asnumpy()
    classes = options.get("num_classes", model_options(name)["num_classes"].default)
    assert result.shape == (shape[0], classes)
    assert np.isfinite(result).all()


@pytest.mark.parametrize(("stem", "size"), [("imagenet", 16), ("cifar", 64)])
def test_stem_resolution(stem: str, size: int) -> None:
    net = create_model("resnet18", stem=stem)
    shape = net.stem(Tensor(np.zeros((1, 3, 64, 64), np.float32))).shape
    assert shape == (1, 64, size, size)


def test_resnet50_runs() -> None:
    net = create_model("resnet50")
    images = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    assert net(Tensor(images)).shape == (2, 1000)
    ms.set_context(mode=ms.PYNATIVE_MODE)  # the whole has been compiled
    assert net.stages(net.stem(Tensor(images))).shape == (2, 2048, 2, 2)


@pytest.mark.parametrize("name", ["mlp", "resnet20", "vgg11"])
def test_seed_decides_the_weights(name: str) -> None:
    def weights(seed: int) -> list[np.ndarray]:
        ms.set_seed(seed)
        return [p.asnumpy().copy() for p in create_model(name).get_parameters()]

    first, again, other = weights(1), weights(1), weights(2)
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(first, other))


@pytest.mark.parametrize("name", ["resnet18", "resnet20", "vgg11"])
def test_initial_values(name: str) -> None:
    """He et al. (2015): standard deviation sqrt(2 / (k * k * c_out)); BatchNorm is the identity."""
    ms.set_seed(0)
    for _, cell in create_model(name).cells_and_names():
        if isinstance(cell, nn.Conv2d):
            weight = cell.weight.asnumpy().astype(np.float64)
            expected = np.sqrt(2.0 / (weight.shape[0] * weight.shape[2] * weight.shape[3]))
            # Five standard errors of a deviation estimated from that many values.
            assert abs(weight.std() / expected - 1) < 5 / np.sqrt(2 * weight.size)
            assert not cell.has_bias
        if isinstance(cell, nn.BatchNorm2d):
            assert (cell.gamma.asnumpy() == 1).all() and (cell.beta.asnumpy() == 0).all()


@pytest.mark.parametrize(("name", "blocks"), [("resnet20", 9), ("resnet50", 16)])
def test_zero_init_of_the_last_gamma(name: str, blocks: int) -> None:
    net = create_model(name, zero_init_last_gamma=True)
    norms = [c for _, c in net.cells_and_names() if isinstance(c, nn.BatchNorm2d)]
    zero = [norm for norm in norms if (norm.gamma.asnumpy() == 0).all()]
    assert len(zero) == blocks
    last = "bn2" if name == "resnet20" else "bn3"
    assert all(f".{last}." in norm.gamma.name for norm in zero)


def test_parameter_names_are_unique() -> None:
    for name in ("mlp", "resnet20", "vgg11", "resnet50"):
        names = [parameter.name for parameter in create_model(name).get_parameters()]
        assert len(names) == len(set(names))


def test_registry() -> None:
    assert available_models() == [
        "autoencoder",
        "bert",
        "bert_base",
        "bert_large",
        "bert_tiny",
        "language_model",
        "mlp",
        "resnet101",
        "resnet18",
        "resnet20",
        "resnet32",
        "resnet34",
        "resnet50",
        "resnet56",
        "transformer",
        "transformer_base",
        "transformer_big",
        "transformer_fngd",
        "transformer_small",
        "transformer_tiny",
        "vgg11",
    ]
    assert list(model_options("resnet20")) == [
        "num_classes",
        "in_channels",
        "width",
        "zero_init_last_gamma",
    ]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet5", {}, "unknown model 'resnet5', did you mean 'resnet5[06]'"),
        ("vgg", {}, "did you mean 'vgg11'"),
        ("resnet20", {"num_class": 3}, "option .* 'num_class', did you mean 'num_classes'"),
        ("resnet50", {"width": 2.0}, "unknown option of model 'resnet50' 'width'"),
        ("resnet18", {"stem": "cifer"}, "unknown stem 'cifer': .*cifar"),
        ("resnet18", {"num_classes": 0}, "num_classes 0"),
        ("resnet18", {"num_classes": "ten"}, "'num_classes' .* is 'ten': give a whole number"),
        ("resnet18", {"num_classes": True}, "is True: give a whole number"),
        ("resnet18", {"zero_init_last_gamma": 1}, "is 1: give true or false"),
        ("resnet20", {"width": 0.01}, "must be at least 1"),
        ("resnet20", {"width": "wide"}, "give a number"),
        ("vgg11", {"width": 0.0}, "must be at least 1"),
        ("mlp", {"hidden": [10, 0]}, "must be at least 1"),
        ("mlp", {"hidden": 10}, "give a list of whole numbers"),
    ],
)
def test_bad_options(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        create_model(name, **options)
    assert "\n" not in str(caught.value)
