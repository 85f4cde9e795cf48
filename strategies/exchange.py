"""Which of a model's tensors travel between server and sites."""

import math
from collections.abc import Mapping

import torch
from torch import nn

from medvlmoe.errors import CheckpointError
from medvlmoe.model.groups import parameter_group
from medvlmoe.model.memory import fill, finish_filling

# Two readings of the same file agree to the last bit, random numbers drawn on unlike processors to a few of them.
_FROZEN_TOLERANCE = 1e-6


def exchanged_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that travel: trainable parameters, and running statistics where the architecture has any.

    Frozen parameters, and the statistics that belong to them, stay where they are; both ends build them from the same
    seed or the same weights file. Counters (integer buffers) are local.
    """
    trainable = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    persistent = model.state_dict()
    statistics = {
        name: buffer
        for name, buffer in model.named_buffers()
        if name in persistent and buffer.is_floating_point() and not _is_frozen(model.get_submodule(_owner(name)))
    }
    return trainable | statistics


def load_exchanged(model: nn.Module, tensors: Mapping[str, torch.Tensor], *, take: bool = False) -> None:
    """Copy received tensors into the model; parameters without memory get it.

    Args:
        model: receives the tensors.
        tensors: exactly those that it exchanges.
        take: they are nobody else's and may become the model's own instead of being copied.

    Raises:
        ValueError: names or shapes are not exactly those that the model exchanges.
        CheckpointError: a parameter that is not exchanged has no value yet.
    """
    own = exchanged_tensors(model)
    if own.keys() != tensors.keys():
        odd = sorted(own.keys() ^ tensors.keys())[0]
        raise ValueError(f"parameter '{odd}' is on one side only; both ends must use the same model configuration")
    fill(model, tensors, take=take)
    finish_filling(model)


def frozen_sums(fixed: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Sum of what does not travel by parameter group: by it the ends of a federation compare their frozen parts.

    Args:
        fixed: the model's state without :func:`exchanged_tensors`.
    """
    sums: dict[str, float] = {}
    for name in fixed:
        tensor = fixed[name]
        if tensor.is_floating_point():
            group = parameter_group(name)
            sums[group] = sums.get(group, 0.0) + float(tensor.sum(dtype=torch.float64))
    return sums


def refuse_other_frozen_parts(model: nn.Module, sums: Mapping[str, float]) -> None:
    """Make sure that the frozen parts here are those of the server.

    Args:
        model: the model here; what it exchanges need not have values yet.
        sums: :func:`frozen_sums` of the server's model.

    Raises:
        CheckpointError: they differ, so that what is learned here would not fit the other sites' models.
    """
    exchanged = exchanged_tensors(model)
    fixed = {name: tensor for name, tensor in model.state_dict().items() if name not in exchanged}
    own = frozen_sums(fixed)
    for group in sorted(own.keys() | sums.keys()):
        squares = (
            float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2
            for name, tensor in fixed.items()
            if tensor.is_floating_point() and parameter_group(name) == group
        )
        allowed = _FROZEN_TOLERANCE * math.sqrt(sum(squares))
        if not abs(own.get(group, math.inf) - sums.get(group, math.inf)) <= allowed:
            raise CheckpointError(
                f"the frozen part of '{group}' is not the server's; use the same weights file there and here"
            )


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters(recurse=False))
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def _owner(name: str) -> str:
    return name.rpartition(".")[0]
