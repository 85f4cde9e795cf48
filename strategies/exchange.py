"""Which of a model's tensors travel between server and sites."""

from collections.abc import Mapping

import torch
from torch import nn


def exchanged_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that travel: trainable parameters, and running statistics where the architecture has any.

    Frozen parameters stay where they are; both ends build them from the same seed or the same weights file.
    Counters (integer buffers) are local.
    """
    trainable = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    persistent = model.state_dict()
    statistics = {
        name: buffer for name, buffer in model.named_buffers() if name in persistent and buffer.is_floating_point()
    }
    return trainable | statistics


@torch.no_grad()
def load_exchanged(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy received tensors into the model.

    Raises:
        ValueError: names or shapes are not exactly those that the model exchanges.
    """
    own = exchanged_tensors(model)
    if own.keys() != tensors.keys():
        odd = sorted(own.keys() ^ tensors.keys())[0]
        raise ValueError(f"parameter '{odd}' is on one side only; both ends must use the same model configuration")
    for name, tensor in own.items():
        received = tensors[name]  # once: it may be decoded anew each time
        if tensor.shape != received.shape:
            raise ValueError(f"parameter '{name}' has shape {tuple(received.shape)}, not {tuple(tensor.shape)}")
        tensor.copy_(received)
