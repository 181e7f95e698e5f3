"""Normalisations over a batch or over groups of channels, which no method covers."""

from __future__ import annotations

from mindspore import nn

from mindspore_thor.layers.layer_type import Form, LayerType


def _why_not(cell: nn.Cell) -> str:
    return "normalisation: plain gradient"


def _norm(cell: type[nn.Cell]) -> LayerType:
    return LayerType(cell, form=Form.PLAIN, weight="gamma", bias="beta", why_not=_why_not)


BATCH_NORM_1D = _norm(nn.BatchNorm1d)
BATCH_NORM_2D = _norm(nn.BatchNorm2d)
BATCH_NORM_3D = _norm(nn.BatchNorm3d)
SYNC_BATCH_NORM = _norm(nn.SyncBatchNorm)
GROUP_NORM = _norm(nn.GroupNorm)
