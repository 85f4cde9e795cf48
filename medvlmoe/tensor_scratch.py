"""Tensors that are worked on one at a time and together are larger than they should be in memory."""

import os
import tempfile
from collections.abc import Iterator, MutableMapping
from pathlib import Path

import torch

from medvlmoe.errors import CheckpointError
from medvlmoe.files import cannot_write


class TensorScratch(MutableMapping[str, torch.Tensor]):
    """Tensors by name in a file without a name, which is gone with the process however it ends.

    What is looked up is a copy: a change counts when it is stored again. A tensor stored again with the same type and
    shape takes the place of the earlier one.

    Args:
        folder: on the disk that the file takes its room from.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[str, tuple[int, torch.dtype, torch.Size]] = {}
        self._end = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  (closed with this object)
        except OSError as error:
            raise cannot_write(self._folder, error) from error

    def __setitem__(self, name: str, tensor: torch.Tensor) -> None:
        known = self._places.get(name)
        if known is not None and known[1:] == (tensor.dtype, tensor.shape):
            offset = known[0]
        else:
            offset = self._end
            self._end += tensor.numel() * tensor.element_size()
        data = _bytes_of(tensor.detach().cpu().contiguous()).numpy().data
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._file.fileno(), data[written:], offset + written)
        except OSError as error:
            raise cannot_write(self._folder, error) from error
        self._places[name] = (offset, tensor.dtype, tensor.shape)

    def __getitem__(self, name: str) -> torch.Tensor:
        offset, dtype, shape = self._places[name]
        tensor = torch.empty(shape, dtype=dtype)
        data = _bytes_of(tensor).numpy().data
        read = 0
        while read < len(data):
            count = os.preadv(self._file.fileno(), [data[read:]], offset + read)
            if count == 0:
                raise CheckpointError(f"the scratch file in {self._folder} has lost what was written to it")
            read += count
        return tensor

    def __delitem__(self, name: str) -> None:
        del self._places[name]

    def __contains__(self, name: object) -> bool:  # a mapping's own way is to read the tensor
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a contiguous tensor, as bytes."""
    return tensor.reshape(-1).view(torch.uint8)
