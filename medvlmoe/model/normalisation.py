"""Group normalisation in the place of batch normalisation.

Batch statistics make a prediction depend on its batch, cannot be merged over sites with different data, and have no
per-sample gradient.
"""

import math

from timm.layers import BatchNormAct2d, GroupNormAct
from torch import nn


def replace_batch_normalisation(module: nn.Module, groups: int = 32) -> nn.Module:
    """Replace every batch normalisation inside ``module`` by group normalisation with the same scale and shift.

    Parameter names, activation and dropout that timm folds into the layer stay as they were. The running statistics
    are dropped. Where ``groups`` does not divide the channels, their greatest common divisor is taken. Returns
    ``module``, or its replacement when it is a batch normalisation itself.
    """
    if isinstance(module, nn.BatchNorm2d):
        return _group_normalisation(module, groups)
    for name, child in module.named_children():
        setattr(module, name, replace_batch_normalisation(child, groups))
    return module


def _group_normalisation(batch: nn.BatchNorm2d, groups: int) -> nn.Module:
    channels = batch.num_features
    groups = math.gcd(groups, channels)
    group: nn.GroupNorm
    if isinstance(batch, BatchNormAct2d):
        group = GroupNormAct(channels, groups, eps=batch.eps, affine=batch.affine)
        group.act, group.drop = batch.act, batch.drop
    else:
        group = nn.GroupNorm(groups, channels, eps=batch.eps, affine=batch.affine)
    if batch.affine:
        group.weight, group.bias = batch.weight, batch.bias
    return group
