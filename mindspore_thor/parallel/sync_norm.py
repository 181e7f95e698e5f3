"""BatchNorm over the samples of all ranks, for small parts of a batch on each.

MindSpore's ``nn.SyncBatchNorm`` is ``nn.BatchNorm2d`` with another operator in training, which its
Ascend back end alone has. The layer stays what it is, by name, type and parameters, and so do
checkpoints and what second-order methods make of it: the plain gradient.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import nn

from mindspore_thor.errors import UserError
from mindspore_thor.parallel.communication import world


def synchronise_norms(net: nn.Cell) -> int:
    """Let every BatchNorm2d of a net normalise by the samples of all ranks, if there are several.

    Args:
        net: The net, before its optimizer is built.

    Returns:
        How many layers were changed.

    Raises:
        UserError: If the device has no such operator.
    """
    _, ranks = world()
    if ranks == 1:
        return 0
    device = ms.get_context("device_target")
    if device != "Ascend":
        raise UserError(
            f"train.sync_batch_norm is true, but MindSpore's {device} back end has no "
            "SyncBatchNorm, only Ascend's has: set it to false"
        )
    norms = [cell for _, cell in net.cells_and_names() if isinstance(cell, nn.BatchNorm2d)]
    for norm in norms:
        # MindSpore keeps 1 - momentum.
        made = nn.SyncBatchNorm(norm.num_features, eps=norm.eps, momentum=1.0 - norm.momentum)
        norm.bn_train = made.bn_train
    return len(norms)
