"""Models without memory: built in a moment, filled with values from elsewhere.

A parameter that waits for its value lies on the meta device. It cannot be moved to a device, so a Trainer refuses the
model: nothing can be trained or predicted with a value that nobody gave.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from medvlmoe.errors import CheckpointError

_NAMES_SHOWN = 5
Module = TypeVar("Module", bound=nn.Module)


def without_memory(build: Callable[[], Module]) -> Module:
    """The module that ``build`` gives, its parameters with names and shapes only; buffers are computed as always.

    A few backbones of timm compute with their parameters while they are built. They get memory and random values.
    """
    try:
        with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
            return build()
    except (NotImplementedError, RuntimeError):
        with torch.random.fork_rng(devices=[]):
            return build()


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


def finish_filling(model: nn.Module) -> None:
    """After the last :func:`fill`: compute the buffers that waited for parameters, and see that nothing is missing.

    Raises:
        CheckpointError: a parameter has no value.
    """
    waiting = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if not waiting and any(buffer.is_meta for buffer in model.buffers()):
        for module in model.modules():
            compute = getattr(module, "init_non_persistent_buffers", None)  # timm's name for it
            if callable(compute):
                compute()
        waiting = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if waiting:
        raise CheckpointError(
            f"{len(waiting)} tensors of the model never got a value ({shortened(waiting)}); both ends must use one "
            "model configuration"
        )


def shortened(names: list[str]) -> str:
    """The first names of a list for a message."""
    return ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
