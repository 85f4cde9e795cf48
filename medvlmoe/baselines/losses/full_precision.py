"""Losses are computed in float32 whatever the format of the forward pass."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor

_Rest = ParamSpec("_Rest")


def outside_autocast(
    loss: Callable[Concatenate[Tensor, _Rest], Tensor],
) -> Callable[Concatenate[Tensor, _Rest], Tensor]:
    """A loss whose matrix products autocast leaves alone.

    ``.float()`` before a product does not do: autocast makes 16 bits of it again. Cosines of close vectors then
    collapse to a few values, and products of long ones may overflow.
    """

    @wraps(loss)
    def computed(first: Tensor, *rest: _Rest.args, **named: _Rest.kwargs) -> Tensor:
        with torch.autocast(first.device.type, enabled=False):
            return loss(first, *rest, **named)

    return computed
