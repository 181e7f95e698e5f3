"""Which nets of mindcv are tried, on which images, and with which options of the methods."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, field
from typing import Any

from mindspore import nn

from mindspore_thor.errors import UserError

CLASSES = 10
STEPS = 5
RATE = 0.002
"""Small, because BatchNorm of eight small images makes losses steep: MobileNetV1's falls from 2.29
to 2.25 in one step of THOR's at 0.001, and overshoots at 0.01."""


@dataclass(frozen=True)
class Net:
    """A net of mindcv.

    Attributes:
        family: In the table.
        size: Height and width of its images: 64, or the least that it takes.
        batch: Images in the batch.
        cell: ``module.Class`` of ``mindcv.models`` where the factory has no such variant; else the
            net is made by its name.
        options: Keywords of the factory or class.
        too_large: Layers that KFAC leaves out, because their whole factors take gigabytes.
    """

    family: str
    size: int = 64
    batch: int = 8
    cell: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    too_large: tuple[str, ...] = ()


NETS = {
    "squeezenet1_1": Net("SqueezeNet"),
    "mobilenet_v3_small_075": Net("MobileNetV3"),
    "mobilenet_v1_025": Net("MobileNetV1"),
    "vit_b_32_224": Net("ViT", 224, 4),
    "poolformer_s12": Net("PoolFormer"),
    "resnext50_32x4d": Net("ResNeXt"),
    "regnet_x_200mf": Net("RegNet"),
    "vgg11": Net("VGG", 224, 4, too_large=("classifier.0",)),
    "convnextv2_atto": Net("ConvNeXtV2"),
    "repvgg_a0": Net("RepVGG"),
    "swin_tiny": Net("Swin", 224, 4),
    "pvt_v2_b0": Net("PVTv2"),
    "shufflenet_v2_x0_5": Net("ShuffleNetV2"),
    "mobilenet_v2_035_96": Net("MobileNetV2"),
    "xcit_tiny_12_p16_224": Net("XCiT"),
    "mobilevit_xx_small": Net("MobileViT"),
    "crossvit_9": Net("CrossViT", 240, 4),
    "coat_lite_tiny": Net("CoaT", 224, 4),
    # Without the auxiliary classifier, which takes images of 299 pixels.
    "inception_v3": Net(
        "Inception", 80, cell="inceptionv3.InceptionV3", options={"aux_logits": False}
    ),
    "efficientnet_b0": Net("EfficientNet"),
    "res2net50": Net("Res2Net"),
    "densenet121": Net("DenseNet"),
    "ghostnet_050": Net("GhostNet"),
    "pvt_tiny": Net("PVT", 224, 4),
    "resnet18": Net("ResNet"),
    "seresnet18": Net("SENet"),
    "googlenet": Net("GoogLeNet"),
    "mnasnet_050": Net("MnasNet"),
    "edgenext_xx_small": Net("EdgeNeXt"),
    "mlp_mixer_s_p32": Net("MLP-Mixer", 224, 4),
    "visformer_tiny": Net("Visformer", 224, 4),
    "convnext_tiny": Net("ConvNeXt"),
}
"""In the order of the runs; the first :data:`WANTED` of them with all methods before the others."""

WANTED = 24

# Steps 1 and 4 collect and invert, steps 2, 3 and 5 are plain ones: every graph is compiled and run
# twice. Grafting gives directions the length of SGD's step, so that one rate is fit for all nets.
_SECOND_ORDER = {"factor_interval": 3, "inverse_interval": 3, "grafting": "sgd"}
METHODS: dict[str, dict[str, Any]] = {
    "thor": _SECOND_ORDER,
    # By inverses: eigendecompositions of factors of 3,000 rows take minutes on a CPU.
    "kfac": {**_SECOND_ORDER, "method": "inverse"},
    # Step 1 is the first epoch, the others reuse its weights.
    "fngd": {"steps_per_epoch": 1},
}
"""Method -> its options; rate :data:`RATE`, momentum and damping are the defaults."""


def options_of(net: str, method: str) -> dict[str, Any]:
    """The options of a method for a net.

    Args:
        net: A key of :data:`NETS`.
        method: A key of :data:`METHODS`.
    """
    too_large = NETS[net].too_large if method == "kfac" else ()
    return {**METHODS[method], **({"exclude": list(too_large)} if too_large else {})}


def create(name: str) -> nn.Cell:
    """Make a net, for :data:`CLASSES` classes and without dropout.

    Dropout is off, also of whole paths, so that the losses of one batch can be compared.

    Args:
        name: A key of :data:`NETS`.

    Raises:
        UserError: If mindcv is not installed.
    """
    if importlib.util.find_spec("mindcv") is None:
        raise UserError(f"{name} is mindcv's, which is not installed: 'pip install mindcv'")
    known = NETS[name]
    if known.cell:
        module, kind = known.cell.split(".")
        made = getattr(importlib.import_module(f"mindcv.models.{module}"), kind)
        net = made(num_classes=CLASSES, **known.options)
    else:
        made = importlib.import_module("mindcv").create_model
        net = made(name, num_classes=CLASSES, **known.options)
    for _, cell in net.cells_and_names():
        if isinstance(cell, nn.Dropout):
            cell.p = 0.0
            cell.keep_prob = 1.0
        elif type(cell).__name__ == "DropPath":
            cell.keep_prob = 1.0
    return net
