"""A model without its numbers, small enough to send to another process for every call."""

import io
import itertools
import pickle
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class _Description(NamedTuple):
    """What is sent in place of a parameter or buffer."""

    place: int  # tensors that several modules share have one place
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    is_parameter: bool
    requires_grad: bool


def model_tensors(model: nn.Module) -> list[Tensor]:
    """Every parameter and every buffer once, those outside of checkpoints included, in the model's order."""
    return list(itertools.chain(model.parameters(), model.buffers()))


def pickle_skeleton(model: nn.Module) -> bytes:
    """The model with a description in place of each parameter and buffer; equal models give equal bytes."""
    file = io.BytesIO()
    _SkeletonPickler(file, model).dump(model)
    return file.getvalue()


def unpickle_skeleton(skeleton: bytes, device: torch.device) -> nn.Module:
    """The model of :func:`pickle_skeleton` with parameters and buffers on ``device`` whose values are arbitrary."""
    return _SkeletonUnpickler(io.BytesIO(skeleton), device).load()


class _SkeletonPickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, model: nn.Module) -> None:
        super().__init__(file)
        self._place_of = {id(tensor): place for place, tensor in enumerate(model_tensors(model))}

    def persistent_id(self, value: Any) -> _Description | None:
        place = self._place_of.get(id(value))
        if place is None:
            return None
        return _Description(
            place,
            tuple(value.shape),
            value.stride(),
            value.dtype,
            isinstance(value, nn.Parameter),
            value.requires_grad,
        )


class _SkeletonUnpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, device: torch.device) -> None:
        super().__init__(file)
        self._device = device
        self._tensors: dict[int, Tensor] = {}

    def persistent_load(self, description: _Description) -> Tensor:
        if description.place not in self._tensors:
            tensor = torch.empty_strided(
                description.shape, description.stride, dtype=description.dtype, device=self._device
            )
            if description.is_parameter:
                tensor = nn.Parameter(tensor, requires_grad=description.requires_grad)
            self._tensors[description.place] = tensor
        return self._tensors[description.place]
