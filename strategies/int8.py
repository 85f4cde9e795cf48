"""Eight bits a value and one scale a row: a quarter of float32.

Shape suffixes: R rows (the first dimension; a vector or a number is one row), C values of a row.
"""

import numpy as np
import torch
from flwr.app import Array

_LARGEST = 127  # symmetric: -128 is not used, so that negating an update negates its code
_SCALE_BYTES = 4


class Int8Rows:
    """Symmetric quantisation, ``value = scale[row] * integer``, integers -127 to 127, scale = max |row| / 127.

    The error of a value is at most half its row's scale. On the wire it is one int8 array of R x (4 + C): every row
    begins with the four bytes of its float32 scale, so that values and scales cannot be parted or mixed up.
    """

    name = "int8"
    exact = False

    def encode(self, tensor: torch.Tensor) -> Array:
        """A float tensor as a Flower array; NaN and infinity are passed on in the scale, where decoding finds them."""
        values_RC = _as_rows(tensor.detach().to("cpu", torch.float32)).numpy()
        largest_R = np.abs(values_RC).max(axis=1, initial=0.0)
        scale_R = (largest_R / np.float32(_LARGEST)).astype(np.float32)
        packed = np.empty((len(values_RC), _SCALE_BYTES + values_RC.shape[1]), dtype=np.int8)
        packed[:, :_SCALE_BYTES] = scale_R[:, None].view(np.int8)
        usable_R = np.isfinite(scale_R) & (scale_R > 0)
        divisor_R = np.where(usable_R, scale_R, np.float32(1))
        with np.errstate(invalid="ignore", over="ignore"):
            integers_RC = np.rint(values_RC / divisor_R[:, None])
        packed[:, _SCALE_BYTES:] = np.where(usable_R[:, None], np.clip(integers_RC, -_LARGEST, _LARGEST), 0)
        return Array(packed)

    def decode(self, array: Array, shape: torch.Size | None = None) -> torch.Tensor:
        """A float32 tensor of ``shape`` (``None``: R x C).

        Raises:
            ValueError: another number format or shape, a scale that is negative or not finite, or a value of -128.
        """
        packed = array.numpy()
        if packed.dtype != np.int8:
            raise ValueError(f"{packed.dtype} where codec int8 sends int8")
        if packed.ndim != 2 or packed.shape[1] < _SCALE_BYTES:
            raise ValueError(f"rows of shape {packed.shape} hold no scale")
        found = (packed.shape[0], packed.shape[1] - _SCALE_BYTES)
        if shape is not None and found != _row_shape(shape):
            raise ValueError(f"has shape {found} in rows, not {_row_shape(shape)}")
        scale_R1 = np.ascontiguousarray(packed[:, :_SCALE_BYTES]).view(np.float32)
        if not np.isfinite(scale_R1).all():
            raise ValueError("holds NaN or infinity")
        if (scale_R1 < 0).any():
            raise ValueError("holds a negative scale")
        integers_RC = packed[:, _SCALE_BYTES:]
        if (integers_RC == -_LARGEST - 1).any():
            raise ValueError("holds -128, which codec int8 never sends")
        values_RC = torch.from_numpy(integers_RC.astype(np.float32) * scale_R1)
        return values_RC if shape is None else values_RC.reshape(shape)

    def byte_count(self, shape: torch.Size) -> int:
        """Bytes of a tensor of this shape on the wire (without Flower's headers)."""
        return shape.numel() + _row_shape(shape)[0] * _SCALE_BYTES


def _row_shape(shape: torch.Size) -> tuple[int, int]:
    if len(shape) < 2:
        return 1, shape.numel()
    return shape[0], shape[1:].numel()


def _as_rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(_row_shape(tensor.shape))
