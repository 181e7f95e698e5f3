"""``nn.Conv1d``: to MindSpore a convolution of an image of height 1, [N, C, L] -> [N, C, 1, L].

Its operator is ``Conv2D`` on that image, its weight [C_out, C_in / groups, 1, k], and kernel,
stride, padding and dilation have the image's two axes: the rows are those of ``nn.Conv2d``.
"""

from __future__ import annotations

from mindspore import nn

from mindspore_thor.layers.layer_type import LayerType
from mindspore_thor.layers.types.conv2d import conv_rows

CONV1D = LayerType(nn.Conv1d, conv_rows, operator="conv2d")
