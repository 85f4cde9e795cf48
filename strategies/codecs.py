"""Number formats of parameters on the wire.

Flower's arrays are numpy arrays, which have no bfloat16: its 16 bits travel as an int16 view.
"""

from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import Array

from strategies.config import CODECS


@dataclass(frozen=True)
class Codec:
    """One number format: the torch type of the values and the numpy type that carries their bits.

    Encoding to float32 and back is exact; the others round to nearest.
    """

    name: str
    value_type: torch.dtype
    wire_type: np.dtype

    def encode(self, tensor: torch.Tensor) -> Array:
        """A float tensor as a Flower array."""
        values = tensor.detach().to("cpu", self.value_type).contiguous()
        bits = values.view(torch.int16) if self.value_type is torch.bfloat16 else values
        return Array(bits.numpy())

    def decode(self, array: Array) -> torch.Tensor:
        """A Flower array of this format as a float32 tensor.

        Raises:
            ValueError: the array carries another number format, or its bytes are not an array.
        """
        values = array.numpy()
        if values.dtype != self.wire_type:
            raise ValueError(f"{values.dtype} where codec {self.name} sends {self.wire_type}")
        tensor = torch.from_numpy(values)
        if self.value_type is torch.bfloat16:
            tensor = tensor.view(torch.bfloat16)
        return tensor.to(torch.float32)

    def byte_count(self, tensor: torch.Tensor) -> int:
        """Bytes of the tensor's values on the wire (without Flower's headers)."""
        return tensor.numel() * self.wire_type.itemsize


def codec_by_name(name: str) -> Codec:
    """The codec called ``name``.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in CODECS:
        raise ValueError(f"no codec '{name}'; there are {', '.join(CODECS)}")
    value_type = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[name]
    wire_type = {"float32": "float32", "float16": "float16", "bfloat16": "int16"}[name]
    return Codec(name, value_type, np.dtype(wire_type))
