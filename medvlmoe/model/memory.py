"""Models without memory: built in a moment, filled with values from elsewhere.

A parameter that waits for its value lies on the meta device. It cannot be computed with, so that a model can never
train or predict with a value that nobody gave it.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from medvlmoe.errors import CheckpointError

_NAMES_SHOWN = 5


def without_memory() -> AbstractContextManager[None]:
    """Inside, the parameters of new modules have names and shapes only; buffers are real and computed as always."""
    return init_empty_weights(include_buffers=False)


@torch.no_grad()
def fill(model: nn.Module, tensors: Mapping[str, Tensor], *, take: bool = False) -> None:
    """Give the named parameters and buffers these values; parameters without memory get memory on the CPU.

    Args:
        model: receives the values.
        tensors: a value for each name; read once each, so they may be decoded when asked for.
        take: the tensors belong to nobody else and may become the parameters, instead of being copied.

    Raises:
        KeyError: the model has no tensor of that name.
        ValueError: a value has another shape.
    """
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name in tensors:
        tensor, value = own[name], tensors[name]
        if tensor.shape != value.shape:
            raise ValueError(f"parameter '{name}' has shape {tuple(value.shape)}, not {tuple(tensor.shape)}")
        if not tensor.is_meta:
            tensor.copy_(value)
            continue
        if not (take and value.dtype == tensor.dtype and value.is_contiguous()):
            value = torch.empty_like(tensor, device="cpu").copy_(value)
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=tensor.requires_grad))


def refuse_unfilled(model: nn.Module) -> None:
    """Make sure that every parameter has a value.

    Raises:
        CheckpointError: one has none.
    """
    waiting = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if waiting:
        raise CheckpointError(
            f"{len(waiting)} parameters never got a value ({shortened(waiting)}); both ends must use the same model "
            "configuration"
        )


def shortened(names: list[str]) -> str:
    """The first names of a list for a message."""
    return ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
