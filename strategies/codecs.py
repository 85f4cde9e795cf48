"""Number formats of parameters on the wire.

Flower's arrays are numpy arrays, which have no bfloat16: its 16 bits travel as an int16 view.

A format that rounds carries the *change* of the parameters from a site to the server, never the parameters: rounding
to 8 or 16 bits would swallow changes that are small beside the parameters themselves.
"""

import io
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from flwr.app import Array
from flwr.common.constant import SType

from strategies.config import UPLOAD_CODECS
from strategies.int8 import Int8Rows


class Codec(Protocol):
    """One number format."""

    @property
    def name(self) -> str:
        """As in ``strategy.codec``."""

    @property
    def exact(self) -> bool:
        """Whether decoding gives back every bit of a float32 tensor."""

    def encode(self, tensor: torch.Tensor) -> Array:
        """A float tensor as a Flower array."""

    def decode(self, array: Array, shape: torch.Size | None = None) -> torch.Tensor:
        """A Flower array of this format as a float32 tensor.

        Args:
            array: what was received.
            shape: the shape that the tensor must have; ``None``: take it as it comes.

        Raises:
            ValueError: another number format or shape, or bytes that are no array.
        """

    def byte_count(self, shape: torch.Size) -> int:
        """Bytes of a tensor of this shape on the wire (without Flower's headers)."""


@dataclass(frozen=True)
class FloatFormat:
    """Values of one floating-point type. Encoding to float32 and back is exact; the others round to nearest."""

    name: str
    value_type: torch.dtype
    wire_type: np.dtype

    @property
    def exact(self) -> bool:
        """Only float32 loses nothing."""
        return self.value_type is torch.float32

    def encode(self, tensor: torch.Tensor) -> Array:
        """See :class:`Codec`."""
        values = tensor.detach().to("cpu", self.value_type).contiguous()
        bits = values.view(torch.int16) if self.value_type is torch.bfloat16 else values
        return as_array(bits.numpy())

    def decode(self, array: Array, shape: torch.Size | None = None) -> torch.Tensor:
        """See :class:`Codec`."""
        values = _values(array)
        if values.dtype != self.wire_type:
            raise ValueError(f"{values.dtype} where codec {self.name} sends {self.wire_type}")
        if shape is not None and values.shape != tuple(shape):
            raise ValueError(f"has shape {values.shape}, not {tuple(shape)}")
        # The only copy: what was received is not the model's memory. Into torch's: NumPy asks for huge pages, which the
        # system may have to gather first, at several times the cost of the copy.
        tensor = torch.empty(values.shape, dtype=_WIRE_TYPES[self.wire_type])
        np.copyto(tensor.numpy(), values)
        if self.value_type is torch.bfloat16:
            tensor = tensor.view(torch.bfloat16)
        return tensor.to(torch.float32)

    def byte_count(self, shape: torch.Size) -> int:
        """See :class:`Codec`."""
        return shape.numel() * self.wire_type.itemsize


_WIRE_TYPES = {
    np.dtype("float32"): torch.float32, np.dtype("float16"): torch.float16, np.dtype("int16"): torch.int16
}  # fmt: skip
_CODECS: dict[str, Codec] = {
    "float32": FloatFormat("float32", torch.float32, np.dtype("float32")),
    "float16": FloatFormat("float16", torch.float16, np.dtype("float16")),
    "bfloat16": FloatFormat("bfloat16", torch.bfloat16, np.dtype("int16")),
    "int8": Int8Rows(),
}


def as_array(values: np.ndarray) -> Array:
    """NumPy values as a Flower array: the same bytes as Flower's own way, which copies them once more."""
    values = np.asarray(values, order="C")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(values))
    data = b"".join((header.getvalue(), values.reshape(-1).view(np.uint8).data))
    return Array(str(values.dtype), values.shape, SType.NUMPY, data)


def _values(array: Array) -> np.ndarray:
    """What a Flower array holds, read only and where it lies: Flower's own reading goes through two further copies."""
    stream = io.BytesIO(array.data)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    read = readers.get(np.lib.format.read_magic(stream))
    if read is None:
        return array.numpy()
    shape, fortran_order, dtype = read(stream)
    count = math.prod(shape)
    if fortran_order or dtype.hasobject or count == 0:
        return array.numpy()
    return np.frombuffer(array.data, dtype=dtype, count=count, offset=stream.tell()).reshape(shape)


def codec_by_name(name: str) -> Codec:
    """The codec called ``name``.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in _CODECS:
        raise ValueError(f"no codec '{name}'; there are {', '.join(UPLOAD_CODECS)}")
    return _CODECS[name]
