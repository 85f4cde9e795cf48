"""Normalised images from a cache file. Shape suffixes: N records, B batch, C H W image (volumes: C D H W)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medvlmoe.errors import ConfigError


class MappedImages:
    """Rows of one cache file, normalised when read."""

    def __init__(
        self, path: Path, rows_N: npt.NDArray[np.int64], channels: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        if not len(mean) == len(std) == channels:
            raise ConfigError(f"image mean and std need {channels} values, one for each channel")
        self._path, self._rows_N = path, rows_N
        self._scale_C = torch.tensor([1 / (255 * value) for value in std], dtype=torch.float32)
        self._shift_C = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)])
        self._pixels_NCHW: npt.NDArray[np.uint8] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pixels_NCHW": None}  # a worker process maps the file again instead of copying it

    def read(self, rows_B: npt.NDArray[np.int64]) -> Tensor:
        """Float32 images, B x C x H x W (volumes: B x C x D x H x W); one stored channel is repeated C times."""
        if self._pixels_NCHW is None:
            self._pixels_NCHW = np.load(self._path, mmap_mode="r")
        pixels = torch.from_numpy(self._pixels_NCHW[self._rows_N[rows_B]]).to(torch.float32)
        one_value_a_channel = (-1, *(1 for _ in range(pixels.ndim - 2)))
        shift, scale = self._shift_C.view(one_value_a_channel), self._scale_C.view(one_value_a_channel)
        return torch.addcmul(shift, pixels, scale)
